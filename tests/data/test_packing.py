"""Batches and mixtures: every row in its place, shares met, the same order for the same seed."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeptune.core.errors import RecipeError
from keeptune.data.mixing import mixed_order, proportional, sampled
from keeptune.data.packing import WINDOW, best_fit, filled, plan_batches

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(first=LENGTHS, second=LENGTHS, capacity=st.integers(1, 80), overhead=st.integers(0, 20), seed=st.integers(0, 9))
def test_an_epoch_without_shares_is_a_partition_into_full_batches(first, second, capacity, overhead, seed):
    lengths = {"a": first, "b": second}
    batches = plan_batches(lengths, batch_tokens=capacity, seed=seed, epochs=1, overhead_tokens=overhead)
    assert sorted(row for batch in batches for row in batch) == list(range(len(first) + len(second)))
    size = [length + overhead for length in first + second]
    totals = [sum(size[row] for row in batch) for batch in batches]
    assert all(total <= capacity or len(batch) == 1 for total, batch in zip(totals, batches, strict=True))
    following = [size[batch[0]] for batch in batches[1:]]
    assert all(total + extra > capacity for total, extra in zip(totals[:-1], following, strict=True))


@settings(max_examples=40, deadline=None)
@given(first=LENGTHS, second=LENGTHS, share=st.floats(0.02, 0.98), rows=st.integers(1, 300))
def test_after_any_number_of_rows_the_shares_hold_within_one_row(first, second, share, rows):
    lengths = {"task": first, "replay": second}
    seen = Counter()
    for source, index in islice(mixed_order(lengths, {"task": share, "replay": 1 - share}, 0, inf), rows):
        seen[source] += lengths[source][index]
        assert abs(seen["task"] - share * seen.total()) <= max(first + second) + 1e-6


@pytest.mark.parametrize(("cap", "temperature"), [(None, 1.0), (30, 1.0), (None, 3.0), (50, 2.0), (None, 1e9)])
def test_examples_are_drawn_in_proportion_to_capped_sizes_whatever_their_length(cap, temperature):
    lengths = {"small": [40] * 20, "middle": [10, 20] * 30, "large": [5] * 400}
    shares = proportional(lengths, cap, temperature)
    assert sum(shares.values()) == pytest.approx(1)
    seen = Counter(source for source, _ in islice(mixed_order(lengths, shares, 0, inf), 20_000))
    sizes = {name: min(len(rows), cap or 10**9) ** (1 / temperature) for name, rows in lengths.items()}
    for name, size in sizes.items():
        assert seen[name] / 20_000 == pytest.approx(size / sum(sizes.values()), abs=0.002)


def test_shares_need_not_sum_to_one():
    lengths = {"task": [3] * 50, "replay": [7] * 9}
    assert list(mixed_order(lengths, {"task": 9, "replay": 1}, 3, 1)) == list(
        mixed_order(lengths, {"task": 0.9, "replay": 0.1}, 3, 1)
    )


@pytest.mark.parametrize("epochs", [1, 2, 2.5])
def test_an_epoch_is_a_pass_over_the_leading_source(epochs):
    lengths = {"replay": [10] * 7, "task": [5] * 40}
    seen = Counter(mixed_order(lengths, {"task": 0.9, "replay": 0.1}, 1, epochs))
    times = [seen["task", index] for index in range(40)]
    assert sum(times) == round(epochs * 40)
    assert max(times) - min(times) <= 1
    replayed = [seen["replay", index] for index in range(7)]
    assert max(replayed) - min(replayed) <= 1


def test_each_pass_is_shuffled_anew_and_a_seed_repeats_it():
    lengths = {"task": [1] * 100}
    order = [index for _, index in mixed_order(lengths, None, 5, 2)]
    assert order[:100] != order[100:]
    assert order == [index for _, index in mixed_order(lengths, None, 5, 2)]
    assert order != [index for _, index in mixed_order(lengths, None, 6, 2)]


def test_the_order_is_the_same_on_every_machine():
    """The order was written down once, with CPython 3.11; another one would make old runs impossible to resume."""
    assert [index for _, index in mixed_order({"task": [1] * 6}, None, 7, 1)] == [2, 0, 3, 5, 4, 1]


def test_steps_make_so_many_batches_with_rows_numbered_source_after_source():
    lengths = {"task": [4] * 5, "replay": [4] * 5}
    batches = plan_batches(lengths, {"task": 0.5, "replay": 0.5}, batch_tokens=8, seed=0, steps=7)
    assert len(batches) == 7
    assert all(len([row for row in batch if row >= 5]) == 1 for batch in batches)


def test_a_row_longer_than_the_batch_is_alone():
    assert list(filled([(0, 3), (1, 50), (2, 3), (3, 3)], 10)) == [[0], [1], [2, 3]]


@pytest.mark.parametrize("shares", [{"task": 0.9, "repaly": 0.1}, {"task": 1, "empty": 1}, {"task": 0}, {"task": inf}])
def test_a_share_that_cannot_be_met_is_refused(shares):
    with pytest.raises(RecipeError) as caught:
        plan_batches({"task": [1], "replay": [1], "empty": []}, shares, batch_tokens=8, seed=0, epochs=1)
    assert caught.value.code == "E-MIX-SHARE"


def test_a_share_of_rows_has_its_size_is_inside_a_larger_one_and_differs_by_name():
    ids = [f"r{number}" for number in range(512)]
    drawn = {k: sampled(ids, k, "7|task") for k in (1 / 256, 1 / 64, 1 / 4, 1.0)}
    assert [len(places) for places in drawn.values()] == [2, 8, 128, 512]
    assert all(places == sorted(set(places)) for places in drawn.values())
    assert set(drawn[1 / 256]) < set(drawn[1 / 64]) < set(drawn[1 / 4])
    assert drawn[1.0] == list(range(512))
    assert sampled(ids, 1 / 4, "8|task") != drawn[1 / 4]
    assert sampled(ids[:3], 1 / 256, "7|task") != []


@settings(max_examples=60, deadline=None)
@given(
    first=LENGTHS, second=LENGTHS, capacity=st.integers(1, 80), seed=st.integers(0, 9),
    packing=st.sampled_from(["best_fit", "by_length"]), epochs=st.integers(1, 3),
)  # fmt: skip
def test_an_arranged_epoch_holds_every_row_once_and_no_batch_too_many_tokens(
    first, second, capacity, seed, packing, epochs
):
    lengths = {"a": first, "b": second}
    asked = {"batch_tokens": capacity, "seed": seed, "epochs": epochs, "packing": packing}
    batches = plan_batches(lengths, **asked)
    seen = Counter(row for batch in batches for row in batch)
    assert seen == Counter({row: epochs for row in range(len(first) + len(second))})
    size = [*first, *second]
    assert all(sum(size[row] for row in batch) <= capacity or len(batch) == 1 for batch in batches)
    assert batches == plan_batches(lengths, **asked)


def slow_best_fit(rows, capacity):
    """The definition: every open batch is looked at for every row."""
    batches = []
    for number, tokens in rows:
        fitting = [batch for batch in batches if batch[0] >= tokens]
        if fitting:
            chosen = min(fitting, key=lambda batch: batch[0])
        else:
            chosen = [capacity]
            batches.append(chosen)
        chosen[0] -= tokens
        chosen.append(number)
    return [batch[1:] for batch in batches]


def least_batches(lengths, capacity):
    """The least number of batches, by trying everything."""
    best = len(lengths)

    def place(rest, rooms):
        nonlocal best
        if len(rooms) >= best:
            return
        if not rest:
            best = len(rooms)
            return
        for at in range(len(rooms)):
            if rooms[at] >= rest[0]:
                place(rest[1:], [*rooms[:at], rooms[at] - rest[0], *rooms[at + 1 :]])
        place(rest[1:], [*rooms, capacity - rest[0]])

    place(sorted(lengths, reverse=True), [])
    return best


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=9))
def test_best_fit_is_its_definition_and_near_the_least_number_of_batches(lengths):
    rows = sorted(enumerate(lengths), key=lambda row: -row[1])
    found = best_fit(rows, 20)
    assert found == slow_best_fit(rows, 20)
    assert len(found) <= 11 / 9 * least_batches(lengths, 20) + 6 / 9


def test_best_fit_is_fuller_by_length_is_alike_and_the_mixture_holds_from_window_to_window():
    lengths = {"task": [7 + index % 90 for index in range(3000)], "replay": [300 + index % 200 for index in range(400)]}
    size = [*lengths["task"], *lengths["replay"]]
    shares = {"task": 0.5, "replay": 0.5}
    plans = {
        packing: plan_batches(lengths, shares, batch_tokens=512, seed=1, epochs=1, packing=packing)
        for packing in ("drawn", "best_fit", "by_length")
    }
    fill = {name: sum(size[row] for batch in plan for row in batch) / (512 * len(plan)) for name, plan in plans.items()}
    assert fill["best_fit"] > 0.985
    assert fill["drawn"] < 0.9
    spread = {
        name: sum(max(size[r] for r in batch) - min(size[r] for r in batch) for batch in plan) / len(plan)
        for name, plan in plans.items()
    }
    assert spread["by_length"] < spread["drawn"] / 10
    for plan in plans.values():
        part = [row for batch in plan[: 2 * WINDOW] for row in batch]
        tokens = sum(size[row] for row in part)
        assert sum(size[row] for row in part if row < 3000) / tokens == pytest.approx(0.5, abs=0.06)
