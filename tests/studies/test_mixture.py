"""Mixtures: points are what their design says, a made-up table is read as it was made, and a study ends in a page."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keeptune.core.errors import RecipeError
from keeptune.evaluations.target import Target
from keeptune.recipes.recipe import load_recipe
from keeptune.statistics.cells import Cells
from keeptune.studies._points import Point, replaying, scaled, tokens_of, with_steps
from keeptune.studies._session import run_study
from keeptune.studies.designs import Ground, Table
from keeptune.studies.designs.dmt_k import DmtK
from keeptune.studies.designs.regmix import RegMix
from keeptune.studies.designs.total_ratio import TotalRatio
from keeptune.studies.designs.vary import Vary
from tests.recipes.test_shelf import suite  # noqa: F401 (a fixture)
from tests.recipes.test_shelf_steps import model, small  # noqa: F401 (a fixture)

ROWS = {"task": 1000, "second": 400, "general": 400}


def ground(name: str, *steps: int) -> Ground:
    return Ground(load_recipe(name), ROWS, steps, "task")


def test_one_side_shrinks_and_the_other_stays():
    points = Vary(sources=["second"], shares=[0.25, 1]).points(ground("multitask", 10))
    assert [point.recipe.stages[0].sample for point in points] == [{"second": 0.25}, {"second": 1.0}]
    with pytest.raises(RecipeError, match="trains on 'sceond'"):
        Vary(sources=["sceond"]).points(ground("multitask", 10))


def test_k_changes_the_last_stage_alone_and_no_step():
    points = DmtK(shares=[0.5, 1 / 256]).points(ground("dmt", 20, 30))
    assert [point.at["k"] for point in points] == [1 / 256, 0.5]
    for point in points:
        special, general = point.recipe.stages
        assert (special.steps, general.steps, special.epochs) == (20, 30, None)
        assert special.sample == {}
        assert general.sample == dict.fromkeys(("task", "second"), point.at["k"])


def test_totals_and_ratios_are_those_of_the_rows():
    points = TotalRatio(totals=[0.5, 1], ratios=[0.25, 0.75]).points(ground("multitask", 10))
    for point in points:
        drawn = {name: share * ROWS[name] for name, share in point.recipe.stages[0].sample.items()}
        assert sum(drawn.values()) == pytest.approx(point.at["rows"], abs=1)
        assert drawn["task"] / sum(drawn.values()) == pytest.approx(point.at["ratio"])
        assert drawn["second"] == pytest.approx(drawn["general"])
        assert all(count <= ROWS[name] + 1e-9 for name, count in drawn.items())
    assert max(point.at["rows"] for point in points) == round(800 / 0.75)
    with pytest.raises(RecipeError, match="two sides"):
        TotalRatio(sources=["task"]).points(Ground(load_recipe("sft"), {"task": 1000}, [10], "task"))


def test_steps_are_scaled_by_one_factor():
    recipe = with_steps(load_recipe("dmt"), [10, 30])
    assert tokens_of(recipe, [10, 30]) == 40 * 2048
    assert scaled(recipe, [10, 30], 20 * 2048) == [5, 15]
    assert replaying(recipe, ["task"], 0.5).stages[1].sample == {"task": 0.5, "second": 1 / 256}


def made_table(points, losses, base=2.0):
    """A table whose one domain has these bits per byte, without any noise."""
    scores = np.repeat(np.array(losses)[:, None, None], 50, axis=2)
    cells = Cells.of(scores, np.ones(50), np.arange(50), higher_is_better=False)
    return Table(points, [Target(data="general", metric="bits_per_byte")], {"general": cells}, {"general": base})


def test_a_made_slope_is_read_back():
    points = DmtK().points(ground("dmt", 2, 2))
    table = made_table(points, [1.5 + 0.01 * np.log2(point.at["k"]) for point in points])
    (trend,) = DmtK().read(ground("dmt", 2, 2), table)["trends"]
    assert trend["value"] == pytest.approx(0.01)


def test_regmix_finds_the_best_mixture_of_a_made_surface():
    """Loss (w_task - 0.2)^2 + (w_second - 0.5)^2 has its least value inside the simplex, where it was put."""
    own, design = ground("multitask", 5), RegMix(mixtures=20)
    points = design.points(own)
    assert all(sum(point.at.values()) == pytest.approx(1) for point in points)
    assert points[0].recipe.stages[0].shares == pytest.approx(points[0].at)

    def loss(at):
        return 1.5 + (at["task"] - 0.2) ** 2 + (at["second"] - 0.5) ** 2

    table = made_table(points, [loss(point.at) for point in points])
    proposed, equal, recipes_own = design.more(own, table)
    assert proposed.at["task"] == pytest.approx(0.2, abs=0.02)
    assert proposed.at["second"] == pytest.approx(0.5, abs=0.02)
    assert recipes_own.recipe.stages[0].data == own.recipe.stages[0].data
    both = made_table([*points, proposed, equal], [loss(point.at) for point in [*points, proposed, equal]])
    read = design.read(own, both)
    assert read["surfaces"][0]["form"] == "quadratic"
    assert read["surfaces"][0]["held_out"] < 1e-9
    assert read["proposal"]["predicted"] == pytest.approx(read["proposal"]["measured"]["proposed"])
    assert read["proposal"]["measured"]["proposed"] < read["proposal"]["measured"]["equal"]
    with pytest.raises(RecipeError, match="too little"):
        RegMix(mixtures=5).points(own)
    with pytest.raises(RecipeError, match="no domain"):
        RegMix(goal={"nothing": 1}).more(own, table)


def test_a_point_keeps_its_recipe_but_for_the_seed():
    point = Point("x", {}, load_recipe("sft"))
    assert point.seeded(11) == load_recipe("sft", ["seed=11"])


@pytest.fixture
def settings(model, suite, monkeypatch):  # noqa: F811
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(model.parent / "cache"))
    more = [f"data.{name}.rows=12" for name in ("second", "general")]
    return [*small("multitask", model), *more, f"proof.suite={suite}"]


def test_a_study_measures_every_domain_on_rows_of_its_own(settings, tmp_path, monkeypatch):
    choices = ["design=vary", "design.shares=[0.5, 1]", "seeds=1", "hold_out=0.3", "beside=[sequential]"]
    first = run_study("mixture", "multitask", tmp_path / "study", settings, choices, quiet=True)
    assert [cell["label"] for cell in first["cells"]] == ["share-0.500000", "share-1.000000", "sequential"]
    assert {one["name"]: one["metric"] for one in first["domains"]} == {
        "task": "label_accuracy", "second": "bits_per_byte", "general": "bits_per_byte",
    }  # fmt: skip
    assert {(one["domain"], one["than"]) for one in first["contrasts"]} == {
        (name, "sequential") for name in ("task", "second", "general")
    }
    assert [(one["domain"], one["than"], one["share"]) for one in first["gains"]] == [
        (name, 0.5, 1.0) for name in ("task", "second", "general")
    ]
    half, whole = (cell["scores"]["second"]["value"] for cell in first["cells"][:2])
    assert first["gains"][1]["value"] == pytest.approx(half - whole), "fewer bits are a gain"
    for cell in first["cells"]:
        assert all(reading["low"] <= reading["value"] <= reading["high"] for reading in cell["scores"].values())
    page = (tmp_path / "study" / "mixture.html").read_text()
    assert page.count("<svg") == 3
    json.dumps(first, allow_nan=False)

    def never(*_, **__):
        raise AssertionError("an arm that is done is not trained again")

    monkeypatch.setattr("keeptune.studies._bench.trained", never)
    second = run_study("mixture", "multitask", tmp_path / "study", settings, choices, quiet=True)
    assert second["cells"] == first["cells"]


@pytest.mark.slow
def test_a_regression_study_trains_what_it_proposes(settings, tmp_path):
    choices = ["design=regmix", "design.mixtures=6", "seeds=1", "hold_out=0.3", "abilities=false"]
    result = run_study("mixture", "multitask", tmp_path / "study", settings, choices, quiet=True)
    assert [cell["label"] for cell in result["cells"]][6:] == ["proposed", "equal", "own"]
    assert set(result["proposal"]["measured"]) == {"proposed", "equal", "own"}
    assert sum(one["value"] for one in result["proposal"]["shares"].values()) == pytest.approx(1)
    assert "proposed:" in result["text"]
    assert "The proposed mixture" in (tmp_path / "study" / "mixture.html").read_text()
