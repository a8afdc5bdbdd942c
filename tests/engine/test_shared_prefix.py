"""Oracle: every row alone, as the packed scorer and as one plain forward pass see it."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from keeptune.engine import scoring, shared_prefix
from keeptune.engine.rows import active
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import token_logprobs
from keeptune.engine.shared_prefix import group_logprobs
from tests.engine.adapted import adapted
from tests.tiny_models import CONFIGS, VOCABULARY, tiny_model


def groups(seed=1):
    """Prompts of 1 to 9 tokens with 1 to 5 continuations each, some sharing their first own tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()

    made = []
    instruction = draw(10)
    for length, options in ((1, 2), (9, 5), (4, 1), (7, 3), (4, 4), (14, 3), (15, 2)):
        prompt, common = (
            (instruction + draw(length))[-length:] if length < 10 else instruction + draw(length - 10),
            draw(1),
        )
        rows = [Scored([*prompt, *common, *draw(1 + option % 3)], length) for option in range(options)]
        made.append([*rows, Scored([*prompt, *draw(1)], length)])
    return made


def alone(model):
    """The score of every row, of which none shares anything."""
    rows = [row for group in groups() for row in group]
    with mock.patch.object(scoring, "can_share", return_value=False):
        return [sum(values) for values in token_logprobs(model, rows)]


@pytest.mark.parametrize("way", ["tree", "cache"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_shared_prefix_changes_no_score(family, way, monkeypatch):
    model = tiny_model(family)
    if way == "cache":
        monkeypatch.setattr(shared_prefix, "can_share", lambda model: False)
    found = [value for group in group_logprobs(model, groups()) for value in group]
    assert found == pytest.approx(alone(model), abs=2e-5)


def test_each_prompt_is_read_once_and_what_prompts_begin_with_too(monkeypatch):
    read = []
    real = scoring.packed_hidden
    monkeypatch.setattr(scoring, "packed_hidden", lambda model, batch: read.append(batch) or real(model, batch))
    group_logprobs(tiny_model("llama"), groups())
    tokens = [batch.tokens for batch in read]
    long = groups()[-2:]
    assert len(tokens) == 1
    alike = sum(len(row.tokens) for group in long for row in group)
    once = 10 + sum(
        group[0].start - 10 - 1 + sum(len(row.tokens) - group[0].start + 1 for row in group) for group in long
    )
    assert len(tokens[0]) <= sum(len(row.tokens) for group in groups() for row in group) - alike + once


@pytest.mark.parametrize("stack", ["a", "l", ("b", "l", "a")])
def test_adapters_and_soft_prompts_serve_every_continuation(stack):
    model = adapted()
    with active(model, stack):
        found = [value for group in group_logprobs(model, groups()) for value in group]
        assert found == pytest.approx(alone(model), abs=2e-5)


def test_the_size_of_batches_moves_scores_by_rounding_only():
    model = tiny_model("llama")
    whole, single = group_logprobs(model, groups()), group_logprobs(model, groups(), batch_tokens=1)
    for one, other in zip(whole, single, strict=True):
        assert one == pytest.approx(other, abs=2e-5)


def test_the_same_call_gives_the_same_bits():
    model = tiny_model("llama")
    assert group_logprobs(model, groups()) == group_logprobs(model, groups())


def test_tokens_before_the_start_are_not_scored():
    model = tiny_model("llama")
    row = Scored([5, 6, 7, 8], 3)
    other = Scored([5, 9, 7, 8], 3)
    found = group_logprobs(model, [[row, other]])[0]
    with torch.inference_mode():
        logs = [model(torch.tensor([list(r.tokens)])).logits[0, 2].log_softmax(-1)[8].item() for r in (row, other)]
    assert found == pytest.approx(logs, abs=2e-5)
