"""Oracle: every row alone, as the packed scorer and as one plain forward pass see it."""

from __future__ import annotations

import pytest
import torch

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
    for length, options in ((1, 2), (9, 5), (4, 1), (7, 3), (4, 4)):
        prompt, common = draw(length), draw(1)
        rows = [Scored([*prompt, *common, *draw(1 + option % 3)], length) for option in range(options)]
        made.append([*rows, Scored([*prompt, *draw(1)], length)])
    return made


@pytest.mark.parametrize("family", CONFIGS)
def test_a_shared_prefix_changes_no_score(family):
    model = tiny_model(family)
    wanted = token_logprobs(model, [row for group in groups() for row in group])
    found = [value for group in group_logprobs(model, groups()) for value in group]
    assert found == pytest.approx([sum(values) for values in wanted], abs=2e-5)


@pytest.mark.parametrize("stack", ["a", "l", ("b", "l", "a")])
def test_adapters_and_soft_prompts_serve_every_continuation(stack):
    model = adapted()
    with active(model, stack):
        wanted = token_logprobs(model, [row for group in groups() for row in group])
        found = [value for group in group_logprobs(model, groups()) for value in group]
    assert found == pytest.approx([sum(values) for values in wanted], abs=2e-5)


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
