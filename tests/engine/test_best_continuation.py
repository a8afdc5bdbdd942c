"""Oracle: every row of every group, scored to its end."""

from __future__ import annotations

from math import inf

import pytest
import torch

from keeptune.engine.best_continuation import AT_ONCE, MARGIN, best_logprobs
from keeptune.engine.scored import Scored
from keeptune.engine.shared_prefix import Prompts, group_logprobs
from tests.tiny_models import VOCABULARY, tiny_model


def groups(rows=60, count=6):
    generator = torch.Generator().manual_seed(3)

    def draw(length):
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    made = []
    for length in range(2, 2 + count):
        prompt = draw(length)
        made.append([Scored([*prompt, *draw(1 + row % 4)], length) for row in range(rows)])
    return made


def sharp(model):
    """A model that is sure of its words, as a trained one is."""
    model.get_output_embeddings().weight.data *= 60
    return model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_best_and_the_right_row_are_those_of_the_whole_list(family):
    model, asked = sharp(tiny_model(family)), groups()
    golds = [None, 7, 59, 0, 30, 12]
    whole, found = group_logprobs(model, asked), best_logprobs(model, asked, golds)
    for all_, own, gold in zip(whole, found, golds, strict=True):
        best = max(range(len(all_)), key=all_.__getitem__)
        assert all_[max(range(len(own)), key=own.__getitem__)] == all_[best]  # rows of the same tokens are as good
        assert own[best] == pytest.approx(all_[best], rel=1e-5, abs=1e-4)
        assert gold is None or own[gold] == pytest.approx(all_[gold], rel=1e-5, abs=1e-4)


def test_what_is_ruled_out_lies_below_the_best_and_the_rest_has_its_value():
    model, asked = sharp(tiny_model("llama")), groups()
    whole, found = group_logprobs(model, asked), best_logprobs(model, asked, [None] * len(asked))
    out = [
        (value, max(all_))
        for all_, own in zip(whole, found, strict=True)
        for value, kept in zip(all_, own, strict=True)
        if kept == -inf
    ]
    assert len(out) > 100, "a sure model rules most rows out"
    assert all(value < best for value, best in out)


def test_a_prompt_is_read_once_and_few_of_its_continuations(monkeypatch):
    model, asked, read, heads = sharp(tiny_model("llama")), groups(), [], []
    sums, begin = Prompts.sums, Prompts.__init__
    monkeypatch.setattr(Prompts, "sums", lambda self, rows: read.append(len(rows)) or sums(self, rows))
    monkeypatch.setattr(Prompts, "__init__", lambda self, *given: heads.append(len(given[1])) or begin(self, *given))
    best_logprobs(model, asked, [0] * len(asked))
    assert sum(heads) == len(asked)
    assert sum(read) < 0.5 * sum(map(len, asked))


def test_continuations_are_read_in_parts_where_the_cache_would_be_large():
    model, asked = tiny_model("llama"), groups()
    whole = best_logprobs(model, asked, [3] * len(asked))
    for own, other in zip(best_logprobs(model, asked, [3] * len(asked), batch_tokens=1), whole, strict=True):
        assert own == pytest.approx(other, abs=2e-5)


def test_a_model_that_knows_nothing_rules_nothing_out_wrongly():
    model, asked = tiny_model("llama"), groups()
    whole, found = group_logprobs(model, asked), best_logprobs(model, asked, [3] * len(asked))
    for all_, own in zip(whole, found, strict=True):
        assert max(own) == pytest.approx(max(all_), abs=2e-5)


def test_short_lists_are_scored_whole():
    model, asked = sharp(tiny_model("llama")), groups(rows=3 * AT_ONCE)
    assert best_logprobs(model, asked, [0] * len(asked)) == group_logprobs(model, asked)
    assert MARGIN > 0
