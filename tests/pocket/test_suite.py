"""The embedded suite: what it asks is fair, and pocket answers it far better than chance; a damaged pocket fails."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import MachineError
from keeptune.data.suite import Suite
from keeptune.evaluations import Context, Subject
from keeptune.evaluations.retention import Retention
from keeptune.pocket.areas import PLACES
from keeptune.pocket.grammar import agreement
from keeptune.pocket.requests import free_requests
from keeptune.pocket.suite import build_suite

ASKED = ("agreement", "word_order", "cloze", "function_words", "mapping", "key_recall", "comparison")


@pytest.fixture(scope="module")
def suite():
    return build_suite()


def small(suite: Suite, questions: int, documents: int) -> Suite:
    tasks = tuple(replace(task, items=task.items[:questions]) for task in suite.tasks)
    corpora = tuple(replace(corpus, documents=corpus.documents[:documents]) for corpus in suite.corpora)
    return replace(suite, tasks=tasks, corpora=corpora)


def test_there_are_enough_questions_and_texts(suite):
    assert all(len(task.items) >= 1500 for task in suite.tasks)
    assert len(suite.corpora) == 3
    assert all(len(corpus.documents) == 120 for corpus in suite.corpora)
    assert len(set(suite.instructions)) == 600


def test_ids_are_unique_and_the_right_option_stands_anywhere(suite):
    for task in suite.tasks:
        assert len({item.id for item in task.items}) == len(task.items)
        count = len(task.items[0].options)
        places = Counter(item.gold for item in task.items)
        assert set(places) == set(range(count))
        assert max(places.values()) < 1.25 * len(task.items) / count
        assert task.chance == pytest.approx(1 / count)


def test_options_differ_from_each_other(suite):
    for task in suite.tasks:
        assert all(len(set(item.options)) == len(item.options) for item in task.items)


def test_exchanged_words_leave_length_and_words_as_they_were(suite):
    task = next(task for task in suite.tasks if task.name == "word_order")
    for item in task.items:
        assert Counter(item.options[0].split()) == Counter(item.options[1].split())
        assert len(item.options[0]) == len(item.options[1])


def test_a_sentence_is_asked_about_in_one_task_only(suite):
    asked = {task.name: {item.prompt + item.options[item.gold] for item in task.items} for task in suite.tasks}
    assert not asked["word_order"] & asked["cloze"]


def test_the_texts_of_the_task_are_not_in_the_suite(suite):
    for corpus in suite.corpora:
        for document in corpus.documents:
            assert not any(document.cluster == place or document.cluster.startswith(place + "/") for place in PLACES)


@pytest.fixture
def few_places(monkeypatch):
    places = {"standard_library": ("stdlib/json", "stdlib/logging"), "scientific_libraries": ("numpy/lib", "numpy/ma")}
    monkeypatch.setattr("keeptune.pocket.suite.PROSE_PLACES", places)


def test_the_same_seed_gives_the_same_suite_and_another_seed_another(few_places):
    made = [build_suite.__wrapped__(size=40, seed=seed).digest() for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_too_little_documentation_is_said(monkeypatch):
    monkeypatch.setattr("keeptune.pocket.suite.PROSE_PLACES", {"standard_library": ("stdlib/json",)})
    with pytest.raises(MachineError, match="needs 4500 sentences") as caught:
        build_suite.__wrapped__()
    assert caught.value.code == "E-POCKET-TEXT"


def test_corpora_have_enough_independent_modules_for_a_verdict(suite):
    for corpus in suite.corpora:
        assert len({document.cluster for document in corpus.documents}) >= 60


def test_grammar_pairs_name_the_form_that_agrees():
    random = Random(5)
    for _ in range(200):
        item = agreement(random)
        plural = item.gold == 1
        first = item.options[1].split()[0].rstrip(".")
        assert first in ("are", "were", "have") or first not in ("is", "was", "has")
        if item.prompt.startswith("The ") and " the " not in item.prompt:
            noun = item.prompt.split()[-1]
            assert plural == (noun.endswith("s") or noun in ("men", "women", "children"))
        if " this " in item.prompt or " that " in item.prompt:
            assert not plural


def test_requests_are_different_and_bounded_by_what_there_is():
    assert len(set(free_requests(Random(0), 100))) == 100
    assert len(free_requests(Random(0), 10**6)) < 1000


def measured(model, tokenizer, suite):
    subject = Subject(model, tokenizer)
    return Retention().measure(Checkpoint("pocket"), Context(subject=lambda checkpoint: subject, suite=suite))


@pytest.mark.slow
def test_pocket_can_do_it_and_a_damaged_copy_fails(suite):
    """Oracle: noise of half its own spread on every matrix is damage, whatever else a suite may find."""
    from keeptune.models.load import load
    from keeptune.stages.prove import certify

    loaded = load("pocket", device="cpu")
    part = small(replace(suite, tasks=tuple(t for t in suite.tasks if t.name in ASKED)), 100, 50)
    base = measured(loaded.model, loaded.tokenizer, part)
    scores = {score.task: score.value - score.chance for score in base if score.kind == "accuracy"}
    assert all(above > 0.15 for above in scores.values()), scores
    again = certify(base, measured(loaded.model, loaded.tokenizer, part))
    assert (again["verdict"], again["unchanged"]) == ("PASS", True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            if weight.dim() == 2:
                noise = torch.randn(weight.shape, generator=generator).to(weight.dtype)
                weight.add_(noise * weight.float().std().to(weight.dtype) * 0.5)
    certificate = certify(base, measured(loaded.model, loaded.tokenizer, part))
    assert certificate["verdict"] == "FAIL"
    assert any(corpus["verdict"] == "FAIL" for corpus in certificate["retention"]["corpora"])
