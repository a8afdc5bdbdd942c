"""Top layers trained from a trunk that is computed once, against the whole model in every step."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from keeptune.data.encode import Encoded
from keeptune.methods import Head, LoRA, Prompt
from keeptune.stages import _trunk
from keeptune.stages._trunk import lowest_changed_layer
from tests.stages.tiny_training import Bench, rows
from tests.tiny_models import tiny_model

TOP = {"name": "lora", "rank": 4, "targets": [f"model.layers.1.self_attn.{name}_proj" for name in "qv"]}
SETTINGS = {"method": TOP, "steps": None, "epochs": 3.0, "batch_tokens": 48}


def weights(checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.adapters[-1].path / "adapter_model.safetensors")


def cuts(bench: Bench, name: str) -> list[int]:
    return [event["cut"] for event in bench.events(name) if event["kind"] == "trunk"]


def test_weights_are_those_of_training_on_the_whole_model(tmp_path, monkeypatch):
    bench = Bench(tmp_path)
    own = weights(bench.train("trunk", **SETTINGS))
    monkeypatch.setattr(_trunk, "LIMIT_BYTES", 0)
    expected = weights(bench.train("whole", **SETTINGS))
    assert (cuts(bench, "trunk"), cuts(bench, "whole")) == ([1], [])
    for name, tensor in expected.items():
        torch.testing.assert_close(own[name], tensor, rtol=1e-4, atol=1e-5)
    losses = [[line["loss"] for line in bench.metrics(name)] for name in ("trunk", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < losses[0][0]


def test_answers_to_one_prompt_train_above_a_trunk_as_on_the_whole_model(tmp_path, monkeypatch):
    """Their prompt is a segment of its own, which the layers above the trunk attend to as those below."""
    prompt = tuple(range(4, 16))
    learned = (*[False] * len(prompt), *[True] * 3)
    made = [Encoded(f"r{n}", "task", (*prompt[n % 2 :], 20 + n, 30 + n, 2), learned[n % 2 :]) for n in range(12)]
    settings = {**SETTINGS, "work": {"data": {"task": SimpleNamespace(rows=tuple(made))}}}
    bench = Bench(tmp_path)
    bench.train("trunk", **settings)
    monkeypatch.setattr(_trunk, "LIMIT_BYTES", 0)
    bench.train("whole", **settings)
    assert (cuts(bench, "trunk"), cuts(bench, "whole")) == ([1], [])
    losses = [[line["loss"] for line in bench.metrics(name)] for name in ("trunk", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_second_run_reads_the_states_and_ends_in_the_same_bits(tmp_path, monkeypatch):
    bench, cache = Bench(tmp_path, "bfloat16"), {"cache": tmp_path / "cache"}
    first = weights(bench.train("first", work=cache, **SETTINGS))
    assert len(list((tmp_path / "cache" / "trunks").glob("*.safetensors"))) == 1
    monkeypatch.setattr("keeptune.engine.trunk._computed", lambda *_: pytest.fail("computed although it was kept"))
    second = weights(bench.train("second", work=cache, **SETTINGS))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def labelled():
    """Rows whose answer, the parity of the first token, a head can learn."""
    made = [replace(row, answer=("even", "odd")[row.tokens[0] % 2]) for row in rows("task", 40).rows]
    return {"task": SimpleNamespace(rows=tuple(made))}


HEAD = {"name": "head", "labels": ["even", "odd"]}


@pytest.mark.parametrize(("layer", "kept"), [("last", True), (2, True), (1, False), ("mix", False)])
def test_a_head_on_the_last_states_learns_from_a_trunk_what_it_learns_from_the_model(
    tmp_path, monkeypatch, layer, kept
):
    bench, work = Bench(tmp_path), {"data": labelled()}
    settings = {**SETTINGS, "method": {**HEAD, "layer": layer}, "losses": ["label"], "scope": "task"}
    own = bench.train("trunk", work=work, **settings)
    monkeypatch.setattr(_trunk, "LIMIT_BYTES", 0)
    whole = bench.train("whole", work=work, **settings)
    assert (cuts(bench, "trunk"), cuts(bench, "whole")) == ([2] if kept else [], [])
    one, two = (bench.open(made).model.state_dict() for made in (own, whole))
    for name, tensor in two.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-4, atol=1e-5)
    losses = [[line["loss"] for line in bench.metrics(name)] for name in ("trunk", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("settings", [
    {"epochs": 1.0},
    {"method": {"name": "lora", "rank": 4}},
    {"method": "prompt"},
    {"method": "full"},
])  # fmt: skip
def test_where_it_saves_nothing_or_cannot_be_there_is_none(tmp_path, settings):
    bench = Bench(tmp_path)
    bench.train("run", **{**SETTINGS, **settings})
    assert cuts(bench, "run") == []


def test_the_lowest_layer_is_that_of_any_adapter_or_trained_weight():
    model = tiny_model("llama").requires_grad_(False)
    LoRA(targets=["model.layers.1.mlp.up_proj"]).attach(model, "top")
    assert lowest_changed_layer(model) == 1
    LoRA(targets=["model.layers.0.mlp.up_proj"]).attach(model, "frozen", trainable=False)
    assert lowest_changed_layer(model) == 0
    model = tiny_model("llama").requires_grad_(False)
    model.model.norm.weight.requires_grad_()
    assert lowest_changed_layer(model) == 2
    model.model.layers[1].input_layernorm.weight.requires_grad_()
    assert lowest_changed_layer(model) == 1
    Prompt(length=2).attach(model)
    assert lowest_changed_layer(model) == 0


def test_an_image_encoder_has_no_trunk():
    model = tiny_model("vit")
    Head(labels=["even", "odd"]).attach(model)
    made = [replace(row, id=f"image-{number}") for number, row in enumerate(rows("task", 4).rows)]
    plan = SimpleNamespace(unique_rows=lambda: made, drawn=3 * len(made))
    assert lowest_changed_layer(model) == model.config.num_hidden_layers
    assert _trunk.trunk_of(model, plan, None) is None
