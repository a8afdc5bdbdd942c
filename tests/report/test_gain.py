"""A target in bits per byte falls when the model gains: no picture and no sentence may show it as a loss or a share."""

from __future__ import annotations

import json

import pytest

from keeptune.report.compare_page import Entry, compare_page, matched_score
from keeptune.report.gain import change, from_to, gained, toward
from keeptune.report.plane import point_of
from keeptune.report.run_files import read_run
from keeptune.report.sentence import verdict_sentence
from tests.report.test_page import CERTIFICATE

BITS = {
    "metric": "bits_per_byte", "base": 3.529, "adapted": 3.016, "delta": -0.1454, "low": -0.15, "high": -0.14,
    "n": 160, "verdict": "GAINED", "higher_is_better": False,
}  # fmt: skip
SHARE = CERTIFICATE["target"]


def test_a_share_is_told_in_percent_and_bits_per_byte_as_they_are():
    assert (from_to(SHARE), change(SHARE)) == ("12% → 83%", "+71.0 points")
    assert (from_to(BITS), change(BITS)) == ("3.529 → 3.016", "−14.5%")
    sentence = verdict_sentence({**CERTIFICATE, "target": BITS})
    assert sentence.startswith("The target went from 3.529 to 3.016 bits per byte, but")


def test_fewer_bits_lie_to_the_right_with_the_ends_of_the_interval_in_order():
    assert gained(BITS) == pytest.approx((0.1454, 0.14, 0.15))
    point = point_of({**CERTIFICATE, "target": BITS}, "x")
    assert point.target_low < point.target < point.target_high
    assert gained(SHARE) == (0.71, 0.68, 0.74)


def test_a_trail_of_bits_becomes_the_share_that_was_saved():
    trail = [{"target": 4.0}, {"target": None}, {"target": 3.0}, {"target": 5.0}]
    assert [row["target"] for row in toward(BITS, trail)] == pytest.approx([0.0, 0.25, -0.25])
    assert [row["target"] for row in toward(SHARE, [{"target": 0.1}, {"target": 0.4}])] == [0.1, 0.4]


def test_runs_are_compared_where_both_had_saved_the_same_share(tmp_path):
    entries = []
    for name, ends in (("one", (4.0, 3.0)), ("two", (4.0, 2.0))):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "certificate.json").write_text(json.dumps({**CERTIFICATE, "target": BITS}))
        rows = [{"step": step, "target": end, "general": 0.8, "leak": 0.0} for step, end in enumerate(ends)]
        (folder / "trail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        entries.append(Entry.of(read_run(folder)))
    assert matched_score(entries) == pytest.approx(0.25)
    page = compare_page(entries, title="t")
    assert "saved 25% of the base&#x27;s bits per byte" in page or "saved 25% of the base's bits per byte" in page
    assert "bits per byte saved, %" in page
    assert "353%" not in page
