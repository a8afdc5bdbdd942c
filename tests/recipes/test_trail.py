"""Oracle: the points of a trail that are read off the proof's records, measured again on the small suite."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keeptune.core.checkpoint import AdapterRef, Checkpoint
from keeptune.core.score import Item, Score
from keeptune.data.suite import Choice, ChoiceTask, Corpus, Document, Suite
from keeptune.evaluations import Subject
from keeptune.evaluations.format_drift import FormatDrift
from keeptune.evaluations.retention import Retention
from keeptune.recipes.trail import _weights, part_of, part_of_scores
from tests.evaluations.tiny_subject import BASE, context, tiny, tokenizer

WORDS = ("yes", "no", "one", "two")


def suite(questions=130, documents=30, requests=70):
    items = tuple(
        Choice(str(number), f"Say {WORDS[number % 4]} {number}", (" yes", " no"), number % 2)
        for number in range(questions)
    )
    texts = tuple(
        Document(str(number), f"{WORDS[number % 4]} and {WORDS[number % 3]} {number}") for number in range(documents)
    )
    return Suite(
        "s", "1", tasks=(ChoiceTask("t", items, 0.5),), corpora=(Corpus("c", texts),),
        instructions=tuple(f"Say {number}" for number in range(requests)),
    )  # fmt: skip


def test_the_records_of_the_whole_say_what_the_part_would():
    whole = context(Subject(tiny(), tokenizer(), (), "weights"), suite=suite())
    small = replace(whole, suite=part_of(whole.suite))
    evaluations = [Retention(), FormatDrift(data="task", pattern="[a-m]")]
    read = part_of_scores([score for one in evaluations for score in one.measure(BASE, whole)], small.suite)
    measured = [score for one in evaluations for score in one.measure(BASE, small)]
    assert [(score.task, score.kind, score.n) for score in read] == [(s.task, s.kind, s.n) for s in measured]
    assert [score.n for score in read] == [100, 24, 60]
    for one, other in zip(read, measured, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-5)


def test_targets_are_left_to_dev():
    target = Score("task", "target", "exact_match", 1.0, True, 1, 0.0, None, (Item("1", "task", 1.0),))
    assert part_of_scores([target], suite()) == []


def test_a_snapshot_is_the_result_when_their_tensors_are_the_same(tmp_path):
    made = {}
    for name, tensors in (("adapter", b"a"), ("snapshot-2", b"a"), ("snapshot-1", b"b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(tensors)
        (tmp_path / name / "manifest.json").write_text(name)
        made[name] = _weights(Checkpoint("pocket", adapters=(AdapterRef("x", tmp_path / name),)))
    assert made["adapter"] == made["snapshot-2"] != made["snapshot-1"]
    assert _weights(Checkpoint("pocket")) not in made.values()
    assert _weights(Checkpoint("pocket")) != _weights(Checkpoint("other"))
