"""The trunk's states against the hidden states of transformers, and training from them against the whole model."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.data.encode import Encoded
from keeptune.engine import trunk
from keeptune.engine.batch import pack
from keeptune.engine.packed import packed_hidden
from keeptune.engine.trunk import from_trunk, trunk_states
from keeptune.methods import LoRA
from keeptune.models.tensor_store import TensorStore
from tests.tiny_models import CONFIGS, VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LENGTHS = (7, 3, 11, 7)
CUTTABLE = [name for name in CONFIGS if "dynamic" not in name and "longrope" not in name]


def rows(seed: int = 0) -> list[Encoded]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number, length in enumerate(LENGTHS):
        tokens = tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())
        made.append(Encoded(f"r{number}", "task", tokens, (False, *(True,) * (length - 1))))
    return made


@pytest.mark.parametrize("name", CUTTABLE)
def test_states_are_those_that_transformers_hands_to_the_layer(name):
    model, given = tiny_model(name), rows()
    for cut in (0, 1):
        got = trunk_states(model, given, cut)
        for row, states in zip(given, got, strict=True):
            with torch.no_grad():
                expected = tiny_model(name)(torch.tensor([row.tokens]), output_hidden_states=True).hidden_states[cut][0]
            assert_close(states, expected, **CLOSE)


@pytest.mark.parametrize("name", CUTTABLE)
@pytest.mark.parametrize("cut", [1, 2])
def test_going_on_from_the_trunk_gives_the_hidden_states_of_the_whole(name, cut):
    model, given = tiny_model(name), rows()
    batch = pack(given)
    expected = packed_hidden(model, batch)
    got = from_trunk(model, batch, torch.cat(trunk_states(model, given, cut)), cut)
    assert_close(got, expected, **CLOSE)
    assert_close(packed_hidden(model, batch), expected, rtol=0, atol=0)


def test_gradients_of_the_top_layer_are_those_of_the_whole_model():
    given = rows()
    batch, found = pack(given), []
    for whole in (True, False):
        model = tiny_model("qwen3")
        model.requires_grad_(False)
        LoRA(rank=4, targets=["model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj"]).attach(model)
        with torch.no_grad():
            for parameter in model.keeptune.parameters():
                parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
        hidden = packed_hidden(model, batch)
        if not whole:
            hidden = from_trunk(model, batch, torch.cat(trunk_states(model, given, 1)), 1)
        hidden.square().sum().backward()
        found.append([parameter.grad for parameter in model.keeptune.parameters()])
    for expected, got in zip(*found, strict=True):
        assert_close(got, expected, **CLOSE)
        assert expected.abs().max() > 0


def test_going_on_under_low_rank_updates_runs_no_module_of_the_body(monkeypatch):
    model, given = tiny_model("llama").requires_grad_(False), rows()
    LoRA(rank=4, targets=["model.layers.1.mlp.up_proj"]).attach(model)
    states = torch.cat(trunk_states(model, given, 1))
    monkeypatch.setattr(type(model.base_model), "forward", None)
    assert from_trunk(model, pack(given), states, 1).requires_grad


def test_nothing_is_computed_above_the_cut():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(float("nan"))
    assert all(torch.isfinite(states).all() for states in trunk_states(model, rows(), 1))


def test_the_second_time_they_are_read_and_another_weight_row_or_cut_is_another_entry(tmp_path, monkeypatch):
    store, model = TensorStore(tmp_path), tiny_model("llama")
    first = trunk_states(model, rows(), 1, store=store)
    with monkeypatch.context() as patch:
        patch.setattr(trunk, "_computed", lambda *_: pytest.fail("computed although it was kept"))
        for expected, got in zip(first, trunk_states(model, rows(), 1, store=store), strict=True):
            assert torch.equal(expected, got)
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight.add_(1)
        trunk_states(model, rows(), 1, store=store)
    trunk_states(model, rows(1), 1, store=store)
    trunk_states(model, rows(), 2, store=store)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    trunk_states(model, rows(), 1, store=store)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_an_adapter_below_the_cut_does_not_serve_the_trunk():
    model, given = tiny_model("llama"), rows()
    expected = trunk_states(model, given, 1)
    LoRA(rank=4).attach(model)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.fill_(0.3)
    for one, other in zip(expected, trunk_states(model, given, 1), strict=True):
        assert_close(one, other, **CLOSE)


@pytest.mark.parametrize(("name", "cut", "code"), [
    ("llama", 3, "E-TRUNK-CUT"),
    ("llama", -1, "E-TRUNK-CUT"),
    ("llama, dynamic rope", 1, "E-MODEL-ROPE"),
])  # fmt: skip
def test_what_cannot_be_cut_is_refused(name, cut, code):
    with pytest.raises(PlanError) as caught:
        trunk_states(tiny_model(name), rows(), cut)
    assert caught.value.code == code
