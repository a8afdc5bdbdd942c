"""Looks: every item in one part and once, clusters whole, stopping early at the right verdict, and the error held."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from keeptune.data.suite import Choice, ChoiceTask, Corpus, Document, Suite
from keeptune.recipes.looks import _of, joined, look_by_look, suite_parts
from keeptune.recipes.recipe import Proof
from keeptune.stages.prove import certify
from keeptune.statistics.sequential import SHARES, levels
from tests.stages.scores import accuracy, answers, corpus, flipped

N = 1000


def whole(clustered=False):
    items = tuple(Choice(str(i), f"{i}?", ("a", "b"), 0, f"c{i // 4}" if clustered else "") for i in range(N))
    return Suite("s", "1", (ChoiceTask("a", items, 0.5),), (Corpus("books", tuple(map(doc, range(7)))),))


def doc(number):
    return Document(str(number), "text")


def test_the_parts_hold_every_item_once_in_about_equal_shares():
    parts = list(suite_parts(whole()))
    ids = [item.id for part in parts for task in part.tasks for item in task.items]
    assert sorted(ids) == sorted(str(i) for i in range(N))
    assert [len(part.tasks[0].items) for part in parts] == [200] * 5
    assert ids != sorted(ids, key=int)
    assert sorted(d.id for part in parts for one in part.corpora for d in one.documents) == list("0123456")


def test_a_cluster_is_never_cut():
    seen = [{item.cluster for item in part.tasks[0].items} for part in suite_parts(whole(clustered=True))]
    assert sum(map(len, seen)) == len(set().union(*seen)) == N // 4


def by_parts(before, after):
    """What the adapted model answers to a part, and what it was asked."""
    asked = []

    def ask(part):
        ids = {item.id for task in part.tasks for item in task.items}
        asked.append(len(ids))
        kept = tuple(item for item in after.items if item.id in ids)
        return [_of(after, kept)]

    def verdict(base, adapted, level):
        return certify(base, adapted, level=level, whole=[before], same_model=False)["verdict"]

    return look_by_look([before], [], whole(), ask, verdict), asked


def test_a_badly_harmed_model_is_found_out_early_and_an_unharmed_one_is_let_go_when_it_is_decided():
    right = answers(0.8, N)
    before = accuracy("a", right)
    harmed, asked = by_parts(before, accuracy("a", flipped(right, 300, 0)))
    assert harmed.told["look"] == 1
    assert asked == [200]
    assert harmed.level == levels()[0]
    same, asked = by_parts(before, accuracy("a", right))
    assert same.told["look"] < len(SHARES)
    assert certify(same.base, same.adapted, level=same.level, same_model=False)["verdict"] == "PASS"
    assert len(same.base[0].items) == sum(asked) == len(same.adapted[0].items)


def test_what_stays_undecided_uses_every_item():
    right = answers(0.8, N)
    edge, asked = by_parts(accuracy("a", right), accuracy("a", flipped(right, 45, 30)))
    assert sum(asked) == N
    assert (edge.told["look"], edge.told["share"]) == (5, 1.0)


def test_scores_of_two_parts_are_scores_of_both():
    first, second = corpus("books", [700.0, 800.0]), corpus("books", [900.0])
    second = _of(second, tuple(replace(item, id="other") for item in second.items))
    (both,) = joined([first], [second])
    assert both.n == 3
    assert both.value == pytest.approx((700 + 800 + 900) / 1200)


def test_seeds_that_would_stop_at_items_of_their_own_are_refused():
    with pytest.raises(ValidationError, match="same items"):
        Proof(sequential=True, seeds=3)
