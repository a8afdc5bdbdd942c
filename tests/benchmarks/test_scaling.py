"""The claims of the scaling study are judged by whole intervals, and its page says what the studies found."""

from __future__ import annotations

import json

import pytest

from benchmarks import record, scaling


def ends(value, half):
    return {"value": value, "low": value - half, "high": value + half}


def found(special, general):
    """Two studies whose last step brings so much, within half a width."""

    def one(gain, half):
        cells = [{"at": {"share": share}, "scores": {"task": ends(0.5, half)}} for share in (0.25, 1.0)]
        gains = [{"than": 0.25, "share": 1.0, **ends(gain, half)}]
        return {"tokens": 1000, "seeds": 3, "domains": [{"n": 400}], "cells": cells, "gains": gains}

    made = {"special": one(*special), "general": one(*general)}
    return {**made, "machine": {"processor": "Own"}}


@pytest.mark.parametrize(
    ("special", "general", "verdicts"),
    [
        ((0.20, 0.05), (0.01, 0.03), ["shown", "shown", "shown"]),
        ((0.04, 0.05), (0.01, 0.05), ["open", "open", "open"]),
        ((-0.1, 0.05), (0.20, 0.05), ["denied", "denied", "denied"]),
    ],
)
def test_a_claim_is_shown_only_by_its_whole_interval(special, general, verdicts):
    assert [one["verdict"] for one in scaling.claims(found(special, general))] == verdicts


def test_the_halves_of_independent_intervals_add_in_squares():
    apart = scaling.claims(found((0.2, 0.03), (0.1, 0.04)))[2]
    assert (apart["value"], apart["low"], apart["high"]) == pytest.approx((0.1, 0.05, 0.15))


def test_the_page_shows_rows_gains_and_verdicts():
    studies = found((0.2, 0.05), (0.01, 0.03))
    studies["special"]["hours"], studies["general"]["hours"] = 0.25, 0.5
    text = scaling.page(studies)
    assert "0.75 hours of training and measuring, on Own." in text
    studies["general"]["hours"] = None
    assert "before times were kept" in scaling.page(studies)
    assert "| rows | 512 | 2,048 |" in text
    assert "| special | +20.0 (+15.0 to +25.0) |" in text
    assert "1/4 to all of them" in text


def test_the_page_is_what_the_commands_make_of_the_records():
    kept, again = (
        json.loads((record.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("scaling", "scaling_again")
    )
    assert scaling.PAGE.read_text(encoding="utf-8") == scaling.page(kept, again)
    assert kept["rows"] == scaling.claims(kept)
    assert again["rows"] == [scaling.claim_again(again)]
