"""Scaling: nested shares are trained, a made-up grid is read as it was made, and the page says it."""

from __future__ import annotations

import numpy as np
import pytest

from keeptune.core.errors import DivergedError, RecipeError
from keeptune.core.score import Item
from keeptune.evaluations._summary import summarise
from keeptune.recipes.recipe import load_recipe
from keeptune.report.scaling_page import scaling_page
from keeptune.studies._session import run_study
from keeptune.studies.scaling import read, share_recipe
from tests.recipes.test_shelf import suite  # noqa: F401 (a fixture)
from tests.recipes.test_shelf_steps import model, small  # noqa: F401 (a fixture)

SIZES = [16, 64, 256, 1024, 4096]


def scores(generator, target: float, leak: float):
    def flips(share, name):
        values = (generator.random(4000) < share).astype(float)
        return [Item(f"i{place}", name, float(value)) for place, value in enumerate(values)]

    return [
        summarise("task", "target", "label_accuracy", flips(target, "task")),
        summarise("format_leak", "leak", "leak", flips(leak, "format_leak"), higher_is_better=False),
    ]


def test_a_made_logarithm_is_read_back_and_twice_the_data_adds_its_slope():
    generator = np.random.default_rng(0)
    found = [[scores(generator, 0.1 + 0.06 * np.log2(n), 0.02 * np.log2(n)) for _ in range(3)] for n in SIZES]
    result = read(SIZES, scores(generator, 0.1, 0.0), found)
    curve = result["curves"]["target"]
    assert curve["form"] == "logarithm"
    assert curve["twice"]["low"] <= 0.06 <= curve["twice"]["high"]
    assert curve["twice"]["high"] - curve["twice"]["low"] < 0.02
    assert result["curves"]["kept"]["twice"]["value"] == pytest.approx(-0.02, abs=0.006)
    page = scaling_page({**result, "sources": ["task"], "hours": 0.5})
    assert page.count("<svg") == 2
    assert "Twice the data would add +6" in page or "Twice the data would add +5" in page


def test_a_share_without_a_trained_seed_is_told():
    generator = np.random.default_rng(0)
    with pytest.raises(DivergedError):
        read([1, 2], scores(generator, 0.1, 0.0), [[scores(generator, 0.5, 0.1)], []])


def test_shares_multiply_what_a_stage_samples_already():
    made = share_recipe(load_recipe("dmt"), ["task", "second"], 0.25, 9)
    assert [stage.sample["task"] for stage in made.stages] == [0.25, 0.25 / 256]
    assert "general" not in made.stages[1].sample
    with pytest.raises(RecipeError, match="trains on 'tsk'"):
        share_recipe(load_recipe("dmt"), ["tsk"], 0.25, 9)


def test_a_study_trains_nested_shares(model, suite, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(model.parent / "cache"))
    settings = [*small("sft", model), f"proof.suite={suite}"]
    result = run_study("scaling", "sft", tmp_path / "study", settings, ["shares=[0.5, 1]", "seeds=1"], quiet=True)
    assert [cell["rows"] for cell in result["cells"]] == [18, 36]
    assert (tmp_path / "study" / "scaling.html").exists()
    assert "twice the data: target" in result["text"]
