"""The page on probing says what the committed record says, and the two probes are compared text by text."""

from __future__ import annotations

import gzip
import json

import pytest

from benchmarks.probing import RESULTS, SEEDS, STUDIES, drawn
from benchmarks.probing_page import PAGE, PICTURES, against, picture, tables

FOUND = json.loads(RESULTS.read_text(encoding="utf-8"))["studies"]


def test_every_study_stands_in_the_record_with_all_its_layers_and_seeds():
    assert [(one["model"], one["task"]) for one in FOUND] == [(study.model, study.task) for study in STUDIES]
    for study, one in zip(STUDIES, FOUND, strict=True):
        assert len(one["rows"]) == len(study.probes) * len(study.layers or range(7))
        assert {len(row["seeds"]) for row in one["rows"]} == {SEEDS}


def test_the_page_is_made_from_the_record():
    page = PAGE.read_text(encoding="utf-8")
    assert all(tables(one) in page for one in FOUND)
    tags = [one for one in FOUND if one["task"] == "upos" and len(one["rows"]) > 1]
    for what, label in PICTURES.items():
        assert PAGE.with_name(f"probing_{what}.svg").read_text(encoding="utf-8") == picture(tags, what, label)


def answer(title, seed, right, control):
    return {"title": title, "layer": 3, "seed": seed, "task": {"right": right, "asked": [4, 4]},
            "control": {"right": control}}  # fmt: skip


def test_two_probes_are_compared_text_by_text():
    rows = [answer("linear", seed, [3, 3], [1, 1]) for seed in (0, 1)]
    rows += [answer("MLP-1", seed, [4, 4], [3, 3]) for seed in (1, 0)]
    # One of four words less in every text: 25 points of accuracy, and two controls less: 25 points of selectivity more.
    assert "| 3 | −25.0 (−25.0, −25.0) | +25.0 (+25.0, +25.0) |" in against(rows)
    assert against(rows[:2]) == ""


@pytest.mark.parametrize(("most", "kept"), [(3, 3), (None, 10)])
def test_sentences_are_drawn_by_their_text_alone(tmp_path, most, kept):
    rows = [json.dumps({"text": f"sentence {n}"}) + "\n" for n in range(10)]
    found = []
    for name, own in (("a", rows), ("b", rows[::-1])):
        with gzip.open(tmp_path / f"{name}.gz", "wt") as lines:
            lines.writelines(own)
        found.append(drawn(tmp_path / f"{name}.gz", tmp_path / name, most).read_text().splitlines())
    assert len(found[0]) == kept
    assert set(found[0]) == set(found[1])
