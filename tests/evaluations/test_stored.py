"""Scores are measured once, and again when anything that decides them changes."""

from __future__ import annotations

import gzip
import json
from contextlib import contextmanager

import pytest

from keeptune.core.checkpoint import AdapterRef
from keeptune.core.score import Item, Score
from keeptune.data.suite import Choice, ChoiceTask, Suite
from keeptune.evaluations import Subject, _stored
from keeptune.evaluations._stored import measure_once, measure_unless_claimed
from keeptune.evaluations.retention import Retention
from tests.evaluations.tiny_subject import BASE, context, tiny, tokenizer


def suite(answer=" yes"):
    return Suite("s", "1", tasks=(ChoiceTask("t", (Choice("1", "Say", (answer, " no"), 0),), 0.5),))


@pytest.fixture
def counted(monkeypatch):
    calls = []

    def measure(self, checkpoint, context):
        calls.append(checkpoint)
        return [Score("t", "accuracy", "accuracy", 1.0, True, 1, float("inf"), 0.5, (Item("1", "t", 1.0),))]

    monkeypatch.setattr(Retention, "measure", measure)
    return calls


def given(tmp_path, files="weights", adapters=(), **changes):
    subject = Subject(tiny(), tokenizer(), adapters, files)
    return context(subject, cache=tmp_path / "cache", **{"suite": suite(), **changes})


def test_the_second_time_is_read(tmp_path, counted):
    first = measure_once(Retention(), BASE, given(tmp_path))
    second = measure_once(Retention(), BASE, given(tmp_path))
    assert first == second
    assert len(counted) == 1


def test_other_weights_questions_seeds_or_adapters_are_measured_anew(tmp_path, counted):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "a").write_text("1")
    ref = (AdapterRef("x", folder),)
    variants = [
        given(tmp_path),
        given(tmp_path, files="other"),
        given(tmp_path, suite=suite(" maybe")),
        given(tmp_path, seed=1),
        given(tmp_path, batch_tokens=64),
        given(tmp_path, adapters=ref),
    ]
    for variant in variants:
        measure_once(Retention(), BASE, variant)
    (folder / "a").write_text("2")
    measure_once(Retention(), BASE, given(tmp_path, adapters=ref))
    assert len(counted) == len(variants) + 1


def test_a_damaged_file_is_measured_again(tmp_path, counted):
    measure_once(Retention(), BASE, given(tmp_path))
    path = next((tmp_path / "cache").iterdir())
    stored = json.loads(gzip.decompress(path.read_bytes()))
    stored["scores"][0]["value"] = 0.25
    path.write_bytes(gzip.compress(json.dumps(stored).encode()))
    assert measure_once(Retention(), BASE, given(tmp_path))[0].value == 1.0
    path.write_bytes(b"half a fi")
    assert measure_once(Retention(), BASE, given(tmp_path))[0].value == 1.0
    assert len(counted) == 3


def test_an_evaluator_that_crashes_leaves_nothing_and_counts_no_item_twice(tmp_path, counted, monkeypatch):
    whole = Retention.measure

    def crash(self, checkpoint, context):
        raise KeyboardInterrupt

    monkeypatch.setattr(Retention, "measure", crash)
    with pytest.raises(KeyboardInterrupt):
        measure_once(Retention(), BASE, given(tmp_path))
    monkeypatch.setattr(Retention, "measure", whole)
    assert len(measure_once(Retention(), BASE, given(tmp_path))[0].items) == 1


def test_a_model_in_training_is_never_stored(tmp_path, counted):
    for _ in range(2):
        measure_once(Retention(), BASE, given(tmp_path, files=""))
    assert len(counted) == 2
    assert not (tmp_path / "cache").exists()


def test_what_another_process_measures_is_left_to_it_or_waited_for(tmp_path, counted, monkeypatch):
    held = []

    @contextmanager
    def claim(path, *, wait):
        held.append((path, wait))
        yield wait

    monkeypatch.setattr(_stored, "claimed", claim)
    assert measure_unless_claimed(Retention(), BASE, given(tmp_path), wait=False) is None
    assert not counted
    assert measure_once(Retention(), BASE, given(tmp_path))[0].value == 1.0
    assert [wait for _, wait in held] == [False, True]


def test_what_the_other_process_has_made_meanwhile_is_read(tmp_path, counted, monkeypatch):
    @contextmanager
    def claim(path, *, wait):
        _stored._write(path, Retention().measure(BASE, None))
        yield True

    monkeypatch.setattr(_stored, "claimed", claim)
    measure_once(Retention(), BASE, given(tmp_path))
    assert len(counted) == 1
