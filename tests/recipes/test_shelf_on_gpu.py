"""Recipes whose stages go different ways through the engine, on a GPU (`tests/pretend_gpu.py`), from base to proof."""

from __future__ import annotations

import json

import pytest

from keeptune.recipes.plan import plan_recipe
from keeptune.recipes.run import run_recipe
from keeptune.stages import _training  # noqa: F401 (transformers' trainer looks for a real GPU when it is imported)
from tests.pretend_gpu import pretend_gpu
from tests.recipes.test_shelf_steps import model, small  # noqa: F401 (a fixture)

# A soft prompt before the base's own weights, gates, a reference in the same model and in a second one, pairs, answers
# that are written first.
NAMES = ["promot", "spottune", "replay_kl", "instruction_kl", "dpo", "distill_back"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("keeptune.recipes.plan.product_rate", lambda device, dtype: 1e11)


def on_gpu(name, model, folder, **options):  # noqa: F811
    settings = [setting.replace("float32", "bfloat16") for setting in small(name, model)]
    with pretend_gpu():
        assert "GPU" in plan_recipe(name, settings)["text"]
        return run_recipe(name, folder, settings, quiet=True, **options)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_planned_and_trains(name, model, tmp_path):  # noqa: F811
    on_gpu(name, model, tmp_path / "run", skip_base=True)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics
    assert all(isinstance(step["loss"], float) for step in metrics), "a loss that is no number is written as a word"


def test_a_run_ends_in_a_certificate(model, tmp_path):  # noqa: F811
    found = on_gpu("lora", model, tmp_path / "run")
    assert found["verdict"] in ("PASS", "FAIL", "UNDECIDED")
    certificate = json.loads((tmp_path / "run" / "certificate.json").read_text())
    assert certificate["cost"]["training_peak_bytes"] == 2**30, "what the GPU says that it held at most"
