"""The embedded task: nothing of a test row stands in a training row, and another reader can learn it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest

from keeptune.core.errors import MachineError
from keeptune.pocket.areas import AREAS, LABELS, PLACES, Area
from keeptune.pocket.task import INSTRUCTION, build_task


@pytest.fixture(scope="module")
def task():
    return build_task()


def grams(row, size=13):
    words = row.messages[0].content.removeprefix(INSTRUCTION).lower().split()
    return {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


def test_no_two_parts_share_thirteen_words_in_a_row(task):
    parts = [set().union(*map(grams, part)) for part in (task.train, task.dev, task.test, task.ood)]
    for index, part in enumerate(parts):
        for other in parts[index + 1 :]:
            assert not part & other


def test_there_are_enough_rows_of_every_label(task):
    assert len(task.train) >= 1500
    assert len(task.test) >= 500
    assert len(task.ood) >= 500
    for part in (task.train, task.dev, task.test, task.ood):
        assert set(Counter(row.target for row in part)) == set(LABELS)
    assert task.majority < 0.15
    assert task.chance == pytest.approx(1 / 12)


def test_a_prompt_ends_before_the_answer_and_carries_the_instruction(task):
    for row in task.test[:50]:
        assert [turn.role for turn in row.messages] == ["user", "assistant"]
        assert row.messages[0].content.startswith(INSTRUCTION)
        assert row.target in LABELS


def test_unseen_places_are_not_known_places():
    assert len(set(PLACES)) == len(PLACES)
    for area in AREAS:
        for unseen in area.unseen:
            assert not any(unseen.startswith(known + "/") or unseen == known for known in area.known)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(monkeypatch):
    few = (Area("arrays", ("numpy/lib",), ("numpy/ma",)), Area("records", ("stdlib/logging",), ("stdlib/email",)))
    monkeypatch.setattr("keeptune.pocket.task.AREAS", few)
    monkeypatch.setattr("keeptune.pocket.task.LABELS", ("arrays", "records"))
    made = [build_task.__wrapped__(seed=seed, train=40, dev=5, test=10).digest() for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_a_machine_without_documentation_is_told_so(monkeypatch):
    monkeypatch.setattr("keeptune.pocket.task.AREAS", (Area("arrays", ("numpy/lib",), ()),))
    with pytest.raises(MachineError, match="no documentation about: files"):
        build_task.__wrapped__()


def test_counting_words_is_enough_to_learn_most_of_it(task):
    """Naive Bayes over words: far above chance on the test rows, lower on packages that it has not seen."""
    counts, labels = defaultdict(Counter), Counter(row.target for row in task.train)
    for row in task.train:
        counts[row.target].update(set(row.messages[0].content.lower().split()))

    def said(row):
        words = set(row.messages[0].content.lower().split())
        return max(
            LABELS,
            key=lambda label: (
                math.log(labels[label])
                + sum(math.log((counts[label][word] + 0.3) / (labels[label] + 0.6)) for word in words)
            ),
        )

    shares = [sum(said(row) == row.target for row in part) / len(part) for part in (task.test, task.ood)]
    assert shares[0] > 0.6
    assert 0.2 < shares[1] < shares[0]
