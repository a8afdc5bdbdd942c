"""Evaluation honesty, 84 to 88: repeatable, nothing from nothing, too little is said, chosen is said, no row twice."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest

from keeptune.core.run import Run
from keeptune.data.suite import Choice, ChoiceTask, Corpus, Document, Question, Suite
from keeptune.data.suite import GenerationTask as Open
from keeptune.evaluations.in_context import InContext
from keeptune.evaluations.retention import Retention
from keeptune.evaluations.spoken import Spoken
from keeptune.recipes.measuring import measure
from keeptune.report.luck import luck
from keeptune.report.sentence import verdict_sentence
from keeptune.stages._progress import Progress
from keeptune.stages.prove import certify
from tests.evaluations.tiny_subject import BASE, context
from tests.stages.scores import suite as scored

WORDS = "red green blue black white brown grey pink".split()
CHOICES = tuple(
    Choice(f"c{i}", f"The {word} door is{' very' * (i % 5)}", (f" {word}", " open", f" {WORDS[i % 7]} now"), i % 3)
    for i, word in enumerate(WORDS * 5)
)
SUITE = Suite(
    "s", "1",
    (ChoiceTask("plain", CHOICES, 1 / 3), ChoiceTask("talk", CHOICES, 1 / 3, chat=True, normalise="none")),
    (Corpus("books", tuple(Document(f"d{i}", f"A {w} house stood there. " * (1 + i)) for i, w in enumerate(WORDS))),),
    (Open("open", tuple(Question(f"q{i}", f"Say {word}.", word) for i, word in enumerate(WORDS)), "token_f1", 6),),
)  # fmt: skip


def measured(batch_tokens=8192, seed=0):
    asked = context(suite=SUITE, batch_tokens=batch_tokens, seed=seed)
    return [
        score
        for one in (Retention(), Spoken(questions=8), InContext(shots=1, questions=8))
        for score in one.measure(BASE, asked)
    ]


def test_84_the_same_seed_twice_gives_the_same_numbers():
    assert measured() == measured()


@pytest.mark.parametrize("batch_tokens", [1, 100, 700])
def test_an_item_has_the_same_score_at_any_batch_size(batch_tokens):
    for one, other in zip(measured(), measured(batch_tokens), strict=True):
        for item, again in zip(one.items, other.items, strict=True):
            assert (item.id, item.prediction) == (again.id, again.prediction)
            assert item.score == pytest.approx(again.score, rel=1e-6)
            assert item.gold_logprob == pytest.approx(again.gold_logprob, abs=1e-4)


def test_85_the_base_against_itself_differs_by_exactly_nothing():
    before = measured()
    certificate = certify(before, measured())
    assert certificate["unchanged"]
    for part in (*certificate["retention"]["tasks"], *certificate["retention"]["corpora"]):
        assert part["delta"] == 0.0
    assert verdict_sentence(certificate).startswith("Nothing changed")


def test_86_too_few_items_cannot_tell_and_say_how_many_could():
    certificate = certify(scored(n=60), scored(losses=2, n=60))
    assert certificate["verdict"] == "UNDECIDED"
    needed = certificate["power"]["attained"]["items_to_decide"]
    assert all(count is None or count > 60 for count in needed.values())
    assert "cannot be told" in verdict_sentence(certificate)
    assert f"about {max(count for count in needed.values() if count):,} items" in verdict_sentence(certificate)


def test_87_whoever_looked_at_the_test_rows_before_is_told_of():
    certificate = {**certify(scored(), scored(target=0.6)), "selection": {"test_seen_in": ["sweep"]}}
    assert "the test rows were looked at before this proof (stage sweep)" in luck(certificate)


def test_88_an_evaluator_that_crashes_half_way_goes_on_and_counts_no_row_twice(tmp_path, monkeypatch):
    given = context(suite=SUITE, cache=tmp_path / "cache")
    opened = given.subject(BASE)
    named = type(opened)(opened.model, opened.tokenizer, (), "weights")
    given.subject = lambda checkpoint: named
    chosen, calls, whole = [Retention(), Spoken(questions=8)], Counter(), {}
    for kind in (Retention, Spoken):
        whole[kind] = kind.measure

        def counted(self, checkpoint, asked, kind=kind):
            calls[kind.__name__] += 1
            if kind is Spoken and calls["Spoken"] == 1:
                raise RuntimeError("power cut")
            return whole[kind](self, checkpoint, asked)

        monkeypatch.setattr(kind, "measure", counted)
    with Run.open(tmp_path / "run") as run:
        with pytest.raises(RuntimeError):
            run.write_items("base", measure("base", chosen, BASE, given, Progress(quiet=True)))
        for _ in range(2):
            run.write_items("base", measure("base", chosen, BASE, given, Progress(quiet=True)))
    assert calls == {"Retention": 1, "Spoken": 2}
    with gzip.open(tmp_path / "run" / "items.jsonl.gz", "rt") as lines:
        rows = Counter((row["task"], row["metric"], row["id"]) for row in map(json.loads, lines))
    assert set(rows.values()) == {1}
    assert len(rows) == 40 + 40 + 8 + 8 + 8
