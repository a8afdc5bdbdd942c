"""Robustness at matched score: points on a known line, a slow loop, scipy's regression, how often intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import linregress

from keeptune.statistics.interpolate import common_target, retention_at
from keeptune.statistics.robustness import Path, Shift

ITEMS = 400


def answers(generator, shares_KS, items=ITEMS):
    """Right-or-wrong items with these probabilities."""
    return (generator.random((*np.shape(shares_KS), items)) < np.asarray(shares_KS)[..., None]).astype(float)


def exact(shares_KS, items=ITEMS):
    """Items with exactly this share of right ones."""
    counts = np.rint(np.asarray(shares_KS) * items).astype(int)
    return (np.arange(items) < counts[..., None]).astype(float)


def made(generator, lift=0.0, seeds=3, items=ITEMS, **settings) -> Shift:
    """`plain` lies on the line 0.6 logit(s) - 0.2, `other` is better by `lift` everywhere but learns half as far."""
    known = {"plain": [0.55, 0.7, 0.85], "other": [0.52, 0.6, 0.7]}
    return Shift(
        {
            name: Path(
                answers(generator, repeated(shares, seeds), items),
                answers(generator, repeated(expected(shares) + lift * (name == "other"), seeds), items),
            )
            for name, shares in known.items()
        },
        **settings,
    )


def repeated(shares_K, seeds):
    return np.repeat(np.asarray(shares_K)[:, None], seeds, axis=1)


def expected(shares):
    return expit(0.6 * logit(np.asarray(shares)) - 0.2)


def test_readings_are_those_of_a_loop():
    shift = made(np.random.default_rng(0), lift=0.1, resamples=50)
    assert shift.common("plain", "other") == max(shift.scores("other", place)[0].value for place in range(3))
    paths = {
        name: ([part.mean() for part in path.known_KSN], [part.mean() for part in path.shifted_KSM])
        for name, path in shift.paths.items()
    }
    level = common_target([known for known, _ in paths.values()])  # of these sums: others may differ in the last bit
    assert shift.common("plain", "other") == pytest.approx(level, rel=1e-14)
    read = {name: retention_at(*path, level) for name, path in paths.items()}
    assert shift.gain("other", "plain").value == pytest.approx(read["other"] - read["plain"])
    assert shift.gain("plain", "other").value == pytest.approx(read["plain"] - read["other"])
    nothing = shift.gain("plain", "plain")
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_the_line_is_scipys_and_what_lies_on_it_has_no_robustness_of_its_own():
    shares = np.array([[0.55, 0.6], [0.7, 0.75], [0.85, 0.9]])
    plain = Path(exact(shares), exact(expected(shares)))
    above = Path(exact(shares), exact(expected(shares) + 0.1))
    shift = Shift({"plain": plain, "above": above}, resamples=100)
    slope, start = shift.line("plain")
    points = [(path * ITEMS + 0.5) / (ITEMS + 1) for path in (plain.known_KSN.mean(2), plain.shifted_KSM.mean(2))]
    fit = linregress(logit(points[0]).ravel(), logit(points[1]).ravel())
    assert (slope[0], start[0]) == pytest.approx((fit.slope, fit.intercept))
    assert slope[0] == pytest.approx(0.6, abs=0.01)
    for place in range(3):
        assert shift.effective("plain", place, "plain").value == pytest.approx(0, abs=0.005)
        assert shift.effective("above", place, "plain").value == pytest.approx(0.1, abs=0.005)


def test_a_better_score_alone_is_no_robustness():
    """Both lie on one line; the one that learned more is far better on the shifted items, and nothing else."""
    shift = made(np.random.default_rng(1), items=5000, resamples=300)
    ahead = shift.scores("plain", 2)[1].value - shift.scores("other", 2)[1].value
    assert ahead > 0.05
    for reading in (shift.gain("other", "plain"), shift.effective("other", 2, "plain")):
        assert abs(reading.value) < 0.03
        assert reading.low < 0 < reading.high


def test_intervals_hold_the_true_gain_at_least_as_often_as_they_say():
    generator, hits, tries = np.random.default_rng(2), 0, 100
    for _ in range(tries):
        found = made(generator, lift=0.1, resamples=200).gain("other", "plain")
        hits += found.low <= 0.1 <= found.high
    assert hits / tries > 0.84  # 0.90 with a standard error of 0.03


def test_items_of_one_cluster_and_runs_of_one_seed_are_drawn_together():
    generator = np.random.default_rng(3)
    known, shifted = answers(generator, [[0.7]]), np.repeat(answers(generator, [[0.5]], 40), 10, axis=2)
    own, grouped = (
        Shift({"m": Path(known, shifted)}, shifted_clusters=groups) for groups in (None, np.repeat(np.arange(40), 10))
    )
    widths = [shift.scores("m", 0)[1].high - shift.scores("m", 0)[1].low for shift in (grouped, own)]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(10), rel=0.25)
    assert own.scores("m", 0)[0].low == grouped.scores("m", 0)[0].low
    # Seeds that differ move both paths alike, so that the gain does not know of them.
    paths = {name: Path(exact([[0.6, 0.7, 0.8]]), exact([[0.5, 0.6, 0.7]])) for name in ("one", "two")}
    shift = Shift(paths)
    assert shift.scores("one", 0)[1].high - shift.scores("one", 0)[1].low > 0.2
    assert shift.gain("one", "two").high == pytest.approx(0)


def test_what_cannot_be_compared_is_refused():
    one = Path(np.ones((1, 1, 4)), np.ones((1, 1, 4)))
    with pytest.raises(ValueError, match="same seeds and items"):
        Shift({"one": one, "two": Path(np.ones((1, 1, 5)), np.ones((1, 1, 4)))})
    with pytest.raises(ValueError, match="between 0 and 1"):
        Shift({"one": Path(2 * np.ones((1, 1, 4)), np.ones((1, 1, 4)))})
    with pytest.raises(ValueError, match="3 clusters for 4 items"):
        Shift({"one": one}, known_clusters=[0, 1, 2])
    flat = Shift({"one": one}, resamples=10).effective("one", 0, "one")
    assert (flat.value, flat.low) == (None, None)
