"""The table and the picture of the methods, from a result written by hand."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks import methods
from benchmarks.methods import METHODS, ORDER, RATES, cell_path, chosen, jobs, recipe_of, stage_of
from benchmarks.methods_table import DOCS, LETTER, LINE, labels, picture, table
from benchmarks.record import machine
from keeptune.core.files import write_json
from keeptune.methods import Method


def cell(target, pooled, low, high, deployment="always_on"):
    return {
        "target": {"base": 0.1, "adapted": 0.1 + target, "delta": target, "n": 240},
        "retention": {"pooled": {"base": 0.8, "delta": pooled, "low": low, "high": high, "n": 480}},
        "deployment": deployment,
        "processor_seconds": 10.0,
        "peak_bytes": 1.5e9,
        "stored_bytes": 2e6,
        "trainable_share": 0.01,
    }


REPORT = {
    "command": "python -m benchmarks.methods",
    "machine": {"processor": "a processor"},
    "sizes": {"data.task.train": 25, "data.task.dev": 10, "data.task.test": 20, "proof.items": 60},
    "rows": [
        {
            "method": "full",
            "rate": 3e-4,
            "merges": True,
            "detachable": False,
            "seeds": {"7": cell(0.3, -0.2, -0.25, -0.15)},
        },
        {
            "method": "spottune_compact",
            "rate": 2e-3,
            "merges": True,
            "detachable": True,
            "seeds": {"7": cell(0.2, 0.0, -0.01, 0.01), "8": cell(0.1, -0.04, -0.06, -0.02, "routed")},
        },
    ],
}


def test_a_row_has_the_mean_of_the_seeds_and_the_interval_of_the_worst():
    lines = table(REPORT).splitlines()
    assert lines[2].startswith("| [spottune_compact](methods/spottune.md) | 2.0e-03 | 1% | 25.0% (20.0 to 30.0) |")
    assert "| −2.0 (−6.0 to −2.0) | 2 | 10 | 1.50 | 2 | yes | yes |" in lines[2]
    assert "| 40.0% | −20.0 (−25.0 to −15.0) | 1 |" in lines[3]
    assert "10.0% of 240 test rows and 80.0% of 480 questions" in lines[5]


def test_the_picture_is_an_svg_with_one_mark_for_each_method():
    drawn = ElementTree.fromstring(picture(REPORT))
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    circles = [part for part in drawn.iter() if part.tag.endswith("circle")]
    assert len(circles) == 2
    assert float(circles[0].get("cx")) > float(circles[1].get("cx"))
    assert float(circles[0].get("cy")) > float(circles[1].get("cy"))


@pytest.mark.parametrize("name", ORDER)
def test_a_row_is_a_recipe_at_three_rates_with_a_page(name):
    rates = [stage_of(recipe_of(name, factor, 8)).optimizer.lr for factor in RATES]
    assert rates[1] == pytest.approx(3 * rates[0], rel=1e-3)
    assert rates[2] == pytest.approx(3 * rates[1], rel=1e-3)
    assert recipe_of(name, 1.0, 8).seed == 8
    (method,) = stage_of(recipe_of(name, 1.0, 8)).methods
    assert (DOCS / "methods" / f"{method.name}.md").exists()


def test_every_method_of_the_shelf_has_a_row():
    rows = {stage_of(recipe_of(name, 1.0, 7)).methods[0].name for name in ORDER}
    assert rows == set(Method.names())
    assert set(METHODS) <= set(ORDER)


def test_cells_go_on_where_they_stopped_and_seeds_come_last(tmp_path):
    assert list(jobs(tmp_path, ["lora"])) == [("lora", factor, 7, False) for factor in RATES]
    for factor, dev in zip(RATES, (0.2, 0.4, 0.4), strict=True):
        cell_path(tmp_path, "lora", factor, 7).mkdir(parents=True)
        write_json(cell_path(tmp_path, "lora", factor, 7) / "dev.json", {"dev": dev})
    assert chosen(tmp_path, "lora") == 1.0
    assert [job[2:] for job in jobs(tmp_path, ["lora"])] == [(7, True), (8, True), (9, True)]
    write_json(cell_path(tmp_path, "lora", 1.0, 7) / "final.json", {})
    assert next(jobs(tmp_path, ["ia3", "lora"])) == ("ia3", RATES[0], 7, False)
    assert [job[2] for job in jobs(tmp_path, ["lora"])] == [8, 9]


def test_a_method_without_cells_keeps_the_row_of_a_record_that_was_measured_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "RESULTS", tmp_path)
    assert methods.recorded() == {}
    record = {"machine": machine(), "seeds": [7, 8, 9], "sizes": methods.SIZES, "training": methods.SAME}
    write_json(tmp_path / "methods.json", {**record, "rows": REPORT["rows"]})
    assert list(methods.recorded()) == ["full", "spottune_compact"]
    write_json(tmp_path / "methods.json", {**record, "seeds": [7], "rows": REPORT["rows"]})
    assert methods.recorded() == {}


def test_no_name_covers_another_or_a_point():
    names = ["p_tuning", "prompt", "norm", "ia3", "spottune_compact"]
    points = [(160.0, 200.0), (230.0, 200.0), (203.0, 237.0), (225.0, 238.0), (198.0, 231.0)]
    boxes = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for name, (x, y, anchor) in zip(names, labels(names, points), strict=True):
        begin = x if anchor == "start" else x - LETTER * len(name)
        boxes.append((begin, y - 4 - LINE / 2, begin + LETTER * len(name), y - 4 + LINE / 2))
    for i, one in enumerate(boxes):
        for other in boxes[max(i + 1, len(points)) :]:
            assert not (one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])
