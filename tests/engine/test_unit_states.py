"""States of words against transformers' hidden states, text by text; kept entries."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.data.encode import Encoded
from keeptune.data.word_tokens import UnitRow
from keeptune.engine import unit_states as module
from keeptune.engine.rows import active
from keeptune.engine.unit_states import unit_states
from keeptune.methods import LoRA
from keeptune.models.tensor_store import TensorStore
from tests.tiny_models import SEQ2SEQ, VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
UNITS = [((0,), (1, 2), (2, 3)), ((1,), ()), ((4, 5, 6),), ((0, 6),)]
LENGTHS = [5, 3, 9, 7]


def rows(seed: int = 0) -> list[UnitRow]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number, (units, length) in enumerate(zip(UNITS, LENGTHS, strict=True)):
        tokens = tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())
        made.append(UnitRow(Encoded(str(number), "", tokens, (False,) * length), units))
    return made


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "bert", "deberta-v2", "modernbert", "t5", "bart"])
def test_each_layer_is_the_mean_of_what_transformers_says_about_the_units_tokens(name):
    given, plain = rows(), tiny_model(name)
    layers = unit_states(tiny_model(name), given)
    expected: list[list[torch.Tensor]] = [[] for _ in layers]
    for row in given:
        tokens = torch.tensor([row.encoded.tokens])
        body = plain.get_encoder() if name in SEQ2SEQ else plain
        with torch.no_grad():
            hidden = body(input_ids=tokens, output_hidden_states=True).hidden_states
        assert len(hidden) == len(layers)
        for own, states in zip(expected, hidden, strict=True):
            for unit in row.units:
                total = sum((states[0, place] for place in unit), torch.zeros(states.shape[-1]))
                own.append(total / max(1, len(unit)))
    for got, own in zip(layers, expected, strict=True):
        assert_close(got, torch.stack(own), **CLOSE)


def test_the_second_time_they_are_read_and_another_weight_text_unit_or_adapter_is_another_entry(tmp_path, monkeypatch):
    store, model, given = TensorStore(tmp_path), tiny_model("llama"), rows()
    first = unit_states(model, given, store=store)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_computed", lambda *_: pytest.fail("computed although it was kept"))
        for expected, got in zip(first, unit_states(model, given, store=store), strict=True):
            assert torch.equal(expected, got)
    moved = [UnitRow(row.encoded, row.units[::-1]) for row in given]
    for other in (rows(1), moved):
        assert not torch.equal(unit_states(model, other, store=store)[1], first[1])
    LoRA(rank=2).attach(model, "ana")
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.fill_(0.3)
    with active(model, "ana"):
        assert not torch.equal(unit_states(model, given, store=store)[1], first[1])
    with active(model, None):
        assert_close(unit_states(model, given, store=store)[1], first[1], **CLOSE)
