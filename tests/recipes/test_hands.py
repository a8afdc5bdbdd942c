"""The hand that holds a model to its base: tried in a fixed order, and as light as the budget allows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from keeptune.core.score import Item, Score
from keeptune.recipes.hands import GUARD, Hand, choosing, chosen, measured, place_of, told, tried, weights
from keeptune.recipes.recipe import load_recipe
from keeptune.stages._guard import Budget, Guard, Guarding

QUESTIONS = 200


def hand(weight, target, passed=True):
    return Hand(weight, target, 0.01, passed)


def test_weights_go_from_the_strongest_hand_to_lighter_ones_until_one_does_not_pass():
    assert weights(60.0) == [60.0, 20.0, 6.0, 2.0]
    assert weights(1.234)[0] == 1.234, "the recipe's own, to the digit, for it was run already"
    asked = []

    def short_run(weight):
        asked.append(weight)
        return hand(weight, 0.5, passed=weight > 6)

    assert [one.weight for one in tried(weights(60.0), short_run)] == asked == [60.0, 20.0, 6.0]


def test_the_best_score_among_those_that_pass_decides_and_of_equals_the_strongest_hand():
    assert chosen([hand(60.0, 0.2), hand(20.0, 0.4), hand(6.0, 0.9, passed=False)]) == 20.0
    assert chosen([hand(60.0, 0.4), hand(20.0, 0.4)]) == 60.0
    assert chosen([hand(60.0, 2.0), hand(20.0, 1.5)], higher=False) == 20.0
    assert chosen([hand(60.0, 0.4, passed=False)]) == 60.0, "none passed: the strongest, and the guard ends the run"


def test_the_place_of_the_weight_is_that_of_the_kl_in_the_last_stage():
    assert place_of(load_recipe("replay_kl")) == ("stages[0].losses[1].weight", 60.0)
    assert place_of(load_recipe("sft")) is None
    turned = load_recipe("replay_kl", ["stages[0].losses[1].weight=6"])
    assert place_of(turned) == ("stages[0].losses[1].weight", 6.0)


def test_the_guard_that_chooses_sets_apart_what_the_runs_guard_does_and_has_more_of_its_questions():
    run = load_recipe("replay_kl", [*GUARD, "guard.budget.forget=0.05"])
    own = choosing(run).guard
    assert (own.share, own.budget) == (run.guard.share, run.guard.budget)
    assert (own.share, own.items, own.budget.forget) == (0.2, 300, 0.05)
    named = load_recipe("replay_kl", [*GUARD, "guard.share=0.3"])
    assert choosing(named).guard.share == named.guard.share == 0.3, "the user's own share holds for both"


def scores(*, right, leaks=0, bits=2.0):
    def part(kind, hits, task, **more):
        items = tuple(Item(f"{kind}-{n}", task, float(n < hits)) for n in range(QUESTIONS))
        return Score(task, kind, "m", hits / QUESTIONS, kind != "leak", QUESTIONS, 0.01, items=items, **more)

    corpus = Score("text", "corpus", "bits_per_byte", bits, False, 1, 0.01, items=(Item("c", "text", bits),))
    return [part("target", right, "task"), part("accuracy", right, "ability"), part("leak", leaks, "leak"), corpus]


@dataclass
class Looked(Guarding):
    """A guard whose two measurements are given."""

    found: tuple[list[Score], list[Score]] = ((), ())

    def compared(self, checkpoint):
        return self.found


@pytest.mark.parametrize(("now", "budget", "passed"), [
    ({"right": 150}, {"forget": 0.02}, True),
    ({"right": 150, "leaks": 1}, {"forget": 0.02}, True),
    ({"right": 150, "leaks": 3}, {"forget": 0.02}, False),
    ({"right": 145}, {"forget": 0.02}, False),
    ({"right": 145}, {"forget": 0.05}, True),
    ({"right": 100}, {"bits": 0.02}, True),
    ({"right": 150, "bits": 2.2}, {"bits": 0.02}, False),
    ({"right": 150, "bits": 2.2}, {"forget": 0.02}, True),
], ids=["nothing", "one leak", "leaks", "ability", "wider", "bits alone", "bits spent", "bits unasked"])  # fmt: skip
def test_a_hand_passes_when_everything_lost_is_inside_the_budget_at_its_bound(now, budget, passed):
    guarding = Looked(Guard(budget=Budget(**budget)), [], None, found=(scores(right=150), scores(**now)))
    found = measured(20.0, None, guarding)
    assert found.passed is passed
    assert found.target == now["right"] / QUESTIONS
    assert found.lost > 0, "at its worse end something may have been lost"


def test_without_questions_nothing_is_said_to_be_lost_and_the_other_limits_decide():
    base, now = (
        [one for one in scores(right=150, bits=bits) if one.kind in ("target", "corpus")] for bits in (2.0, 2.2)
    )
    found = measured(20.0, None, Looked(Guard(budget=Budget(bits=0.2)), [], None, found=(base, now)))
    assert (found.lost, found.passed) == (None, True)
    assert told([found], "{:.2f}".format) == "20: 0.75"
    assert told([hand(6.0, 0.5)], "{:.2f}".format) == "6: 0.50, at most 1.0 points lost"
    strict = Looked(Guard(budget=Budget(forget=0.02)), [], None, found=(base, now))
    assert not measured(20.0, None, strict).passed, "what was not asked is not shown to be kept"
