"""Growth curves against scipy's optimiser, made curves of each form, and a simulation of the interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from keeptune.statistics.growth import choose, fit, twice_the_data

SIZES = np.array([8.0, 32, 128, 512, 2048])


def test_a_logarithm_is_found_and_twice_the_data_adds_its_slope():
    scores = 0.2 + 0.05 * np.log2(SIZES)
    best = choose(SIZES, scores)[0]
    assert best.form == "logarithm"
    assert best.parameters == pytest.approx((0.2, 0.05))
    assert best.held_out == pytest.approx(0, abs=1e-9)
    assert best.twice(2048) == pytest.approx(0.05)


def test_a_curve_that_ends_is_found_and_fits_as_well_as_scipys():
    generator = np.random.default_rng(0)
    truth = 0.9 - 1.5 * SIZES**-0.6
    scores = truth + generator.normal(0, 0.004, 5)
    best = choose(SIZES, scores)[0]
    assert best.form == "saturating"
    theirs, _ = curve_fit(lambda n, c, a, k: c - a * n**-k, SIZES, scores, p0=(1, 1, 0.5), maxfev=10_000)
    error = ((best.at(SIZES) - scores) ** 2).sum()
    assert error <= 1.05 * ((theirs[0] - theirs[1] * SIZES ** -theirs[2] - scores) ** 2).sum() + 1e-8
    assert best.twice(2048) < 0.02


def test_a_falling_curve_is_no_power_law_of_growth():
    assert fit("saturating", SIZES, 0.9 - 0.05 * np.log2(SIZES)).parameters[1] == 0
    assert choose(SIZES, 0.9 - 0.05 * np.log2(SIZES))[0].form == "logarithm"


def test_three_sizes_tell_no_forms_apart():
    assert [curve.form for curve in choose(SIZES[:3], [0.1, 0.2, 0.3])] == ["logarithm"]


def test_the_interval_of_twice_the_data_covers():
    generator, hits = np.random.default_rng(1), 0
    truth = 0.2 + 0.05 * np.log2(SIZES)
    for _ in range(200):
        measured = truth + generator.normal(0, 0.02, 5)
        rows = np.vstack([measured, measured + generator.normal(0, 0.02, (200, 5))])
        found = twice_the_data("logarithm", SIZES, rows)
        hits += found["low"] <= 0.05 <= found["high"]
    assert 0.84 < hits / 200 < 0.96
