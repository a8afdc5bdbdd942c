"""The dial between learning and keeping: its arms are recipes, its page is made from its record."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from benchmarks.keeping import arm_file
from benchmarks.keeping_dial import ARMS, DIALS, SIZES, TASKS, TREC
from benchmarks.keeping_dial_page import DOCS, PAGE, RECORD, drawn, page
from benchmarks.keeping_words import kept, reading
from keeptune.data.bare_requests import asked_bare
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.sources import read_sources
from keeptune.studies._lineup import arm_recipe
from tests.benchmarks.gz_rows import gz_rows


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_a_recipe_of_the_shelf_with_one_setting_turned(name, tmp_path):
    path = arm_file(tmp_path, name, SIZES, ARMS)
    arm = arm_recipe(load_recipe("sft", SIZES), path, 166_782, 1.0, 7)
    base = load_recipe(ARMS[name][0])
    assert arm.name == base.name
    (stage,) = arm.stages
    assert stage.steps == 81
    if "_" in name:
        dial, value = name.rsplit("_", 1)
        weights = [loss.weight for loss in stage.losses if loss.name == "kl_to_base"]
        turned = weights or [stage.data["replay"]]
        assert turned == [pytest.approx(float(value))]
        assert float(value) in DIALS[dial].values
        assert sum(stage.data.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["trec", "trec_bare"])
def test_the_recipe_of_questions_reads_its_file(name, tmp_path):
    rows = [{"text": f"w{n} is x{n} y{n} ?", "label_coarse": ("NUM", "LOC")[n % 2]} for n in range(60)]
    path = gz_rows(tmp_path / "rows.jsonl.gz", rows)
    recipe = tmp_path / "trec.yaml"
    recipe.write_text(TREC.format(path=path, prompt=json.dumps(TASKS[name].prompt)), encoding="utf-8")
    task = read_sources(load_recipe(str(recipe)), tmp_path)["task"]
    assert {row.target for row in task.test} == {"NUM", "LOC"}
    assert asked_bare(task.train, ["NUM", "LOC"]) == (name == "trec_bare")


def test_every_task_has_arms_that_there_are():
    assert {name for task in TASKS.values() for name in task.arms} == set(ARMS)


def interval(value, half=0.01):
    return {"value": value, "low": value - half, "high": value + half, "visible": 0.02}


@pytest.fixture
def record():
    def row(arm, target, lost):
        parts = dict.fromkeys(("ability_lost", "leak_gained", "bits_rise"), interval(lost))
        found = {"target": interval(target), "forgotten": interval(lost), **parts}
        return {"task": "trec", "arm": arm, "rate": 1.0, "seeds": [7, 8, 9], "seconds": 360.0, **found}

    rows = [row("sft", 0.8, 0.9), row("keep_60", 0.3, 0.0), row("keep_6", 0.5, 0.03), row("keep_2", 0.6, 0.3)]
    dial = {"name": "LoRA, KL on half", "says": "the weight", "recipe": "replay_kl", "values": [60, 6, 2],
            "arms": ["keep_60", "keep_6", "keep_2"]}  # fmt: skip
    found = {
        "steps": 81,
        "batch_tokens": 2048,
        "planned": ["sft", "keep_60", "keep_6", "keep_2", "kl_2"],
        "questions_of_requests": 295,
        "leaks": {"all": 700.0, "of_questions": 650.0},
    }
    base = {"target": 0.2, "target_rows": 480, "questions": 480, "requests": 600, "documents": 360}
    return {
        "command": "python -m benchmarks.keeping_dial DATA FOLDER", "machine": {"processor": "a processor"},
        "rows": rows, "tasks": {"trec": {"base": base, **found}}, "dials": {"keep": dial},
        "arms": {name: ARMS[name] for name in ("sft", "keep_60")},
    }  # fmt: skip


def test_the_page_names_the_highest_score_within_each_budget(record):
    text = page(record)
    assert "| 2.0 points | `keep_60` | 30.0% (29.0% to 31.0%) |" in text
    assert "| 5.0 points | `keep_6` | 50.0%" in text
    assert "0.4 hours" in text
    assert "not with every seed: `kl_2`." in text
    assert "of the 700 that were answered with a label" in " ".join(text.split())
    record["rows"] = [row for row in record["rows"] if row["arm"] == "sft"]
    assert "| 20.0 points | none |" in page(record)


def test_the_picture_has_a_line_for_the_dial_and_a_mark_for_each_arm(record):
    (picture,) = drawn(record).values()
    root = ElementTree.fromstring(picture)
    labels = {node.text for node in root.iter() if node.tag.endswith("text")}
    assert {"60", "6", "2", "↓ sft, 10.0% kept", "base"} <= labels, "plain tuning is below the others"
    record["rows"][3] |= {"forgotten": interval(0.7)}
    (picture,) = drawn(record).values()
    labels = {node.text for node in ElementTree.fromstring(picture).iter() if node.tag.endswith("text")}
    assert {"0", "sft"} <= labels, "one that lost more than half is drawn from nothing on"


def test_page_and_pictures_are_those_of_the_record():
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(record)
    for name, text in drawn(record).items():
        assert (DOCS / name).read_text(encoding="utf-8") == text


def test_readme_and_recipe_say_what_the_record_says():
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    readme = " ".join((DOCS.parent.parent / "README.md").read_text(encoding="utf-8").split())
    rows = {row["arm"]: row for row in record["rows"] if row["task"] == "fresh"}
    held, plain = rows["kl_6"], rows["sft"]
    assert {len(row["seeds"]) for row in rows.values()} == {5}
    cells = reading(held["target"], sign=False, unit="%"), kept(held["forgotten"])
    assert f"`instruction_kl`, other rows | {' | '.join(cells)} |" in readme
    assert f"where plain tuning scores {reading(plain['target'], sign=False, unit='%')}" in readme
    recipe, turned = load_recipe("instruction_kl"), load_recipe(*ARMS["kl_6"])
    assert (recipe.stages, recipe.data) == (turned.stages, turned.data)
