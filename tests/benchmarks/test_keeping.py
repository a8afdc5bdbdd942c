"""The page of what recipes keep: made from its record; readings of a grid whose answers are known."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.keeping import ARMS, CONTRASTS, LARGE, SMALL, arm_file, missing
from benchmarks.keeping_larger import drawn as pictures_of
from benchmarks.keeping_larger import section
from benchmarks.keeping_page import DOCS, PAGE, drawn, page, records
from benchmarks.keeping_reading import Finished, Table
from benchmarks.keeping_words import kept, reading, share, told
from keeptune.core.score import Item, Score
from keeptune.recipes.recipe import load_recipe
from keeptune.studies._lineup import arm_recipe

REQUESTS = 40
README = DOCS.parent.parent / "README.md"


def score(kind, values, *, task="", metric="m", higher=True, size=1.0):
    items = tuple(Item(f"{kind}-{n}", task or kind, value, size=size) for n, value in enumerate(values))
    mean = sum(values) / len(values) / size
    return Score(task or kind, kind, metric, mean, higher, len(values), 0.01, items=items)


def scores(target, ability, leak, bits, kl=0.0):
    """Shares of 40 items each; two documents of 10 bytes with `bits` each."""

    def part(share):
        return [1.0] * round(REQUESTS * share) + [0.0] * round(REQUESTS * (1 - share))

    return [
        score("target", part(target), task="task"),
        score("accuracy", part(ability)),
        score("leak", part(leak), higher=False),
        score("corpus", [bits, bits], metric="bits_per_byte", higher=False, size=10.0),
        score("drift", [kl], task="task_prompts", metric="kl_to_base", higher=False),
    ]


@pytest.fixture
def found():
    arms = {
        ("sft", 0.3): {seed: scores(0.3, 0.8, 0.5, 20.0, 0.5) for seed in (7, 8)},
        ("sft", 1.0): {seed: scores(0.5, 0.6, 1.0, 24.0, 2.0) for seed in (7, 8)},
        ("promot", 1.0): {seed: scores(0.4, 0.7, 0.0, 22.0, 1.0) for seed in (7, 8)},
        ("lora", 1.0): {7: scores(0.4, 0.7, 0.0, 22.0)},
    }
    return Finished(scores(0.1, 0.8, 0.0, 20.0), arms, dict.fromkeys(arms, 60.0))


def test_a_cell_is_read_when_all_its_seeds_are_there_and_each_loss_on_its_own(found):
    table = Table(found, found.cells(list(ARMS), [0.3, 1.0], [7, 8]), [7, 8])
    assert table.cells == [("sft", 0.3), ("sft", 1.0), ("promot", 1.0)]
    gentle, plain, promot = table.rows()
    assert plain["target"]["value"] == pytest.approx(0.5)
    assert plain["forgotten"]["value"] == pytest.approx(1.0), "the leak is the greater loss"
    assert plain["ability_lost"]["value"] == pytest.approx(0.2)
    assert plain["bits_rise"]["value"] == pytest.approx(0.2), "24 bits on 10 bytes after 20"
    assert promot["forgotten"]["value"] == pytest.approx(0.1), "nothing leaks, a tenth of the ability is lost"
    assert gentle["ability_lost"]["low"] <= 0 <= gentle["ability_lost"]["high"]
    assert table.kl_predicts()["bits_rise"]["value"] == pytest.approx(1.0)


def test_recipes_are_compared_where_both_reach_the_score_and_the_difference_is_paired(found):
    table = Table(found, found.cells(list(ARMS), [0.3, 1.0], [7, 8]), [7, 8])
    matched = table.matched("promot", "sft")
    assert matched["level"] == pytest.approx(0.4)
    assert matched["first"]["value"] == pytest.approx(0.9)
    assert matched["second"]["value"] == pytest.approx(0.25), "half way between 50% kept at 30% and none at 50%"
    assert matched["difference"]["value"] == pytest.approx(0.65)
    assert table.matched("replay_kl", "sft") is None
    difference = table.difference("leak_gained", ("promot", 1.0), ("sft", 1.0))
    assert [difference[key] for key in ("value", "low", "high")] == pytest.approx([-1.0] * 3)


def test_a_difference_that_is_not_told_apart_names_what_would_have_been():
    apart = {"value": 0.04, "low": 0.01, "high": 0.07, "visible": 0.045}
    assert told(apart) == "+4.0 (+1.0 to +7.0) points"
    assert told({**apart, "low": -0.01}).endswith("not told apart; 4.5 would have been, four times in five")
    assert reading({"value": 0.5, "low": None, "high": None}, sign=False, unit="%") == "50.0%"


def test_a_comparison_rests_on_the_first_seeds_that_all_its_arms_have(found):
    assert found.seeds([("sft", 0.3), ("sft", 1.0)], [7, 8, 9]) == 2
    assert found.seeds([("sft", 1.0), ("lora", 1.0)], [7, 8, 9]) == 1
    assert found.seeds([("sft", 1.0), ("text_5", 1.0)], [7, 8, 9]) == 0
    assert [row["seeds"] for name in ("sft", "lora") for row in found.alone((name, 1.0), [7, 8, 9])] == [[7, 8], [7]]


@pytest.mark.parametrize("plan", [SMALL, LARGE], ids=lambda plan: plan.record)
@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_its_recipe_at_the_sizes_of_the_study_without_commits_on_the_way(name, plan, tmp_path):
    study = load_recipe("sft", plan.sizes)
    arm = arm_recipe(study, arm_file(tmp_path, name, plan.sizes), 80_000, 1.0, 8)
    assert arm.data["task"] == study.data["task"]
    stages = [stage for stage in arm.stages if stage.name == "train"]
    assert {stage.saving.every for stage in stages} == {500}
    assert abs(sum(stage.steps * stage.batch_tokens for stage in stages) - 80_000) <= 2048 * len(stages)
    if name == "promot":
        assert stages[0].method.init == "labels", "the task is the study's own, so its labels stay"


def test_every_contrast_is_between_arms_that_are_run():
    run = {(name, rate) for names, rate, _ in SMALL.blocks for name in names}
    assert {(name, 1.0) for first, second, _ in CONTRASTS for name in (first, second)} <= run


def test_the_larger_plan_differs_in_its_training_rows_only_and_runs_what_its_plane_shows():
    assert LARGE.sizes[1:] == SMALL.sizes[1:]
    run = {(name, rate) for names, rate, _ in LARGE.blocks for name in names}
    assert {*((name, 1.0) for name in LARGE.plane), *(("sft", rate) for rate in LARGE.rates)} <= run


def test_the_larger_plane_says_how_many_seeds_each_row_has_and_what_is_missing(found):
    table = Table(found, found.cells(list(ARMS), [0.3, 1.0], [7, 8]), [7, 8])
    record = {
        "command": "python", "tokens": 166_782, "settings": LARGE.sizes, "base": table.base(), "seeds": [7, 8],
        "plane": [row for name in ("sft", "promot") for row in found.alone((name, 1.0), [7, 8, 9])],
        "matched": {"promot": table.matched("promot", "sft")}, "curves": {}, "rows": table.rows(),
        "gates": {"7": {"passed": True, "valid_format": 1.0}, "8": {"passed": False, "valid_format": 0.4}},
        "missing": missing(LARGE, found, {"promot-7": []}), "machine": {"processor": "a processor"},
    }  # fmt: skip
    text = section(record)
    assert "| `promot` | 1 | 2 | 40.0% (" in text
    assert "| `sft` | 0.3 | 2 | 30.0% (" in text, "lower rates of plain tuning beside its own"
    assert "through its runs at 0.3 and 1 times its rate" in text
    assert "`promot` at 1 times its rate, seeds 9, 10, 11; `replay_kl`" in text.splitlines()[-1]
    assert text.endswith("`chats_10` at 1 times its rate, seeds 7, 8, 9, 10, 11.")
    assert "one by one: 0% and 0% of the requests" in text
    assert "does not promise" not in text, "nothing leaked where the gate had passed"
    assert "passed 1 of 2, with at least 40% of" in text
    assert "; the curve of `promot`, seeds 8, 9; the curve of `sft`, seeds 7, 8, 9;" in text
    assert list(pictures_of(record)) == ["keeping_plane_larger.svg"], "no curve, no picture of curves"


def test_the_page_and_its_pictures_are_those_that_the_records_make():
    taken = records()
    text = page(*taken)
    assert PAGE.read_text(encoding="utf-8") == text
    made = drawn(*taken)
    assert {name for name in made if f"({name})" in text} == set(made)
    for name, one in made.items():
        assert (DOCS / name).read_text(encoding="utf-8") == one
        assert ElementTree.fromstring(one).tag == "{http://www.w3.org/2000/svg}svg"
    for name, record in zip(["keeping_plane.svg", "keeping_plane_larger.svg"], taken, strict=False):
        marks = [part for part in ElementTree.fromstring(made[name]).iter() if "mark" in part.get("class", "")]
        gentle = [row for row in record["rows"] if row["rate"] != 1.0] if record is not taken[0] else []
        assert len(marks) == 2 * len(record["plane"]) + len(gentle), "one in the picture and one in the legend"


def test_the_readme_says_what_the_record_says():
    record, text = records()[1], " ".join(README.read_text(encoding="utf-8").split())
    own = {row["arm"]: row for row in record["plane"]}
    assert {len(row["seeds"]) for row in own.values()} == {len(record["seeds"])} == {5}
    assert f"{record['tokens']:,} tokens, five seeds" in text
    names = {"sft": "sft", "chats_10": "instruction_replay", "promot": "promot", "replay_kl": "replay_kl"}
    for arm, recipe in names.items():
        score, matched = reading(own[arm]["target"], sign=False, unit="%"), record["matched"].get(arm)
        there = "" if matched is None else reading(matched["second"], sign=False, unit="%")
        apart = matched is None or not matched["difference"]["low"] < 0 < matched["difference"]["high"]
        cells = [score, kept(own[arm]["forgotten"]), there + ": not told apart" * (not apart)]
        assert f"`{recipe}` | {' | '.join(cells).rstrip()} |" in text
        assert matched is None or round(matched["level"], 3) == round(own[arm]["target"]["value"], 3), "the same score"
    *most, worst = sorted(own["promot"]["leak_of_seeds"])
    assert f"at most {share(max(most))} of the requests, one on {share(worst)}" in text
