"""The base scored again: what changes in each kind, and what stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keeptune.core.checkpoint import Checkpoint
from keeptune.data.suite import Choice, ChoiceTask, Corpus, Document, Suite
from keeptune.evaluations import Subject
from keeptune.stages._rescoring import ORDERS, WORDINGS, rescore
from tests.evaluations.tiny_subject import context, tiny, tokenizer

ITEMS = tuple(Choice(str(n), f"what is {n}", ("a", "b"), n % 2) for n in range(120))
SUITE = Suite(
    "own",
    "1",
    (ChoiceTask("talk", ITEMS, 0.5, chat=True), ChoiceTask("text", ITEMS, 0.5)),
    (Corpus("prose", (Document("1", "one text"), Document("2", "another text"))),),
)


@pytest.fixture
def opened():
    """A context that opens tiny models, and the checkpoints that were opened."""
    import torch

    seen = []

    def subject(checkpoint):
        seen.append(checkpoint)
        return Subject(tiny().to(getattr(torch, checkpoint.dtype)), tokenizer())

    return replace(context(suite=SUITE), subject=subject), seen


def test_other_batches_are_always_tried_and_the_rest_where_it_is_asked_for(opened):
    asked, seen = opened
    base = Checkpoint("tiny", dtype="float32")
    quick = rescore(base, asked)
    assert list(quick) == ["batches"]
    assert {score.task: score.n for score in quick["batches"]} == {"talk": 100, "text": 100, "prose": 2}
    assert {one.dtype for one in seen} == {"float32"}
    found = rescore(base, asked, thorough=True)
    assert list(found) == ["batches", "dtype", "paraphrase", "order"]
    assert {one.dtype for one in seen} == {"float32", "bfloat16"}
    values = [[item.gold_logprob for score in found[kind] for item in score.items] for kind in ("batches", "dtype")]
    assert values[0] == pytest.approx(values[1], abs=0.5)
    assert values[0] != values[1]
    assert [score.task for score in found["paraphrase"]] == ["talk"] * len(WORDINGS)
    assert {len(score.items) for score in found["paraphrase"]} == {100}
    prompts = {score.items[3].prompt for score in found["paraphrase"]}
    assert len(prompts) == len(WORDINGS)
    assert all("what is 3" in prompt for prompt in prompts)
    assert [score.metric for score in found["order"]] == ["natural_4_shot"] * ORDERS
    assert len({tuple(item.gold_logprob for item in score.items) for score in found["order"]}) == ORDERS


def test_a_base_in_four_bits_has_no_other_dtype(opened):
    found = rescore(Checkpoint("tiny", dtype="float32", quantize="nf4"), opened[0], thorough=True)
    assert "dtype" not in found


def test_an_encoder_is_not_scored_again():
    class Reader:
        speaks = False

    assert rescore(Checkpoint("tiny"), context(Reader(), suite=SUITE)) == {}
