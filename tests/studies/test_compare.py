"""A comparison on a random model: arms with equal tokens, figures, a page; what is done is not done again."""

from __future__ import annotations

import json

import pytest

from keeptune.core.errors import RecipeError
from keeptune.recipes.recipe import load_recipe
from keeptune.report.lineup_page import headline
from keeptune.studies._lineup import arm_recipe, token_budget
from keeptune.studies._session import run_study
from tests.recipes.test_shelf import suite  # noqa: F401 (a fixture)
from tests.recipes.test_shelf_steps import model, small  # noqa: F401 (a fixture)

FEW = ["recipes=[sft, lora]", "rates=[0.5, 2]", "tokens=512"]


@pytest.fixture
def settings(model, suite, monkeypatch):  # noqa: F811
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(model.parent / "cache"))
    return [*small("sft", model), f"proof.suite={suite}"]


def test_the_grid_is_run_once_and_read_as_frontiers(settings, tmp_path, monkeypatch):
    first = run_study("compare", "sft", tmp_path / "study", settings, FEW, quiet=True)
    assert [(cell["recipe"], cell["rate"]) for cell in first["cells"]] == [
        ("sft", 0.5), ("sft", 2), ("lora", 0.5), ("lora", 2),
    ]  # fmt: skip
    for cell in first["cells"]:
        assert cell["target"]["low"] <= cell["target"]["value"] <= cell["target"]["high"]
        assert cell["kl_to_base"] > 0
    assert {row["recipe"] for row in first["methods"]} == {"sft", "lora"}
    assert first["hours"] >= 0
    page = (tmp_path / "study" / "compare.html").read_text()
    assert page.count("<svg") == 1
    assert "512 tokens a run" in page
    json.dumps(first, allow_nan=False)

    def never(*_, **__):
        raise AssertionError("an arm that is done is not trained again")

    monkeypatch.setattr("keeptune.studies._bench.trained", never)
    moved = (tmp_path / "study").rename(tmp_path / "elsewhere")
    second = run_study("compare", "sft", moved, settings, FEW, quiet=True)
    assert second["cells"] == first["cells"]
    assert second["methods"] == first["methods"]


def test_arms_draw_the_same_tokens_and_only_the_last_rate_moves():
    study = load_recipe("sft")
    for name in ("sft", "lora", "promot", "promot_joint", "dmt", "text_replay"):
        own = load_recipe(name)
        arm = arm_recipe(study, name, 100_000, 3.0, 11)
        stages = [stage for stage in arm.stages if stage.name == "train"]
        drawn = sum(stage.steps * stage.batch_tokens for stage in stages)
        assert abs(drawn - 100_000) <= 2048 * len(stages)
        before = [stage.optimizer.lr for stage in own.stages if stage.name == "train"]
        assert [stage.optimizer.lr for stage in stages] == pytest.approx([*before[:-1], 3 * before[-1]])
        assert arm.seed == 11
        assert arm.model == study.model
    assert token_budget(study, 1000) == study.stages[0].epochs * 1000


def test_a_prompt_forgets_labels_of_another_task_and_a_missing_source_is_named(tmp_path):
    smaller = load_recipe("sft", ["data.task.train=9"])
    assert arm_recipe(smaller, "promot", 10_000, 1.0, 7).stages[0].method.init == "labels"
    study = load_recipe("sft", ["data.task={format: prompt_completion, path: other.csv}"])
    assert arm_recipe(study, "promot", 10_000, 1.0, 7).stages[0].method.init == "vocabulary"
    data, stages = "{notes: {format: plain_text, path: notes.txt}}", "[{name: train, method: full, data: notes}]"
    (tmp_path / "other.yaml").write_text(f"name: other\ndata: {data}\nstages: {stages}\nproof: null\n")
    with pytest.raises(RecipeError) as caught:
        arm_recipe(study, str(tmp_path / "other.yaml"), 10_000, 1.0, 7)
    assert caught.value.code == "E-STUDY-SOURCE"


def test_the_page_names_a_winner_only_where_the_intervals_part():
    def row(name, value, low, high):
        return {"recipe": name, "hypervolume": {"value": value, "low": low, "high": high}}

    clear = [row("one", 0.4, 0.35, 0.45), row("two", 0.6, 0.55, 0.65)]
    assert headline(clear) == "two covers most of the plane of target and retention"
    assert headline([*clear, row("three", 0.58, 0.5, 0.66)]).endswith("not clearly before three")
