"""`study selection` on a small task: every arm once, equal tokens, test rows untouched, and a sentence that fits."""

from __future__ import annotations

import json

import pytest

from keeptune.core.errors import RecipeError
from keeptune.report.selection_table import selection_text
from keeptune.studies._session import run_study
from tests.methods.test_templates import folder_of

THINGS = "river town ship mill road bridge king war stone tree".split()
RECIPE = """\
name: tiny
seed: 3
model: {name: pocket}
data:
  task: {format: prompt_completion, path: task.jsonl, prompt: text, completion: label}
split: {dev: 0.2, test: 0.3}
stages:
  - name: train
    method: {name: head, kind: linear, pooling: mean, layer: last}
    data: task
    losses: [label]
    optimizer: {name: adamw, lr: 1.0e-2}
    steps: 2
    batch_tokens: 256
proof: {target: {data: task, metric: label_accuracy}}
"""
CHOICES = ["shares=[0.1]", "selectors=[kcenter, rds]", "seeds=3"]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [
        {"text": f"the {one} and the {two}", "label": f"of the {one}"}  # more labels than an arm has rows
        for one in THINGS
        for two in THINGS
        if one != two
    ]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


@pytest.mark.slow
def test_the_grid_is_run_once_and_read_the_second_time(recipe, tmp_path, monkeypatch):
    result = run_study("selection", str(recipe), tmp_path / "s", choices=CHOICES, quiet=True)
    names = [arm["name"] for arm in result["arms"]]
    assert names == ["all", "random-0.1-0", "random-0.1-1", "random-0.1-2", "kcenter-0.1-0", "rds-0.1-0"]
    assert [arm["seed"] for arm in result["arms"]] == [3, 3, 4, 5, 3, 3]
    sizes = {arm["rows"] for arm in result["arms"][1:]}
    assert sizes == {round(0.1 * result["arms"][0]["rows"])}
    assert {(one["by"], one["share"]) for one in result["comparisons"]} == {("kcenter", 0.1), ("rds", 0.1)}
    draws = [arm["score"] for arm in result["arms"] if arm["by"] == "random"]
    for one in result["comparisons"]:
        own = next(arm["score"] for arm in result["arms"] if arm["by"] == one["by"])
        assert one["change"] == pytest.approx(own - sum(draws) / 3)
        assert one["low"] <= one["change"] <= one["high"]
    assert (tmp_path / "s" / "selection.md").read_text() in result["text"]
    assert result["hours"] == pytest.approx(sum(arm["seconds"] for arm in result["arms"]) / 3600, abs=1e-3)
    assert f"{result['hours']:.2f} hours of training and measuring." in result["text"]

    def never(*_, **__):
        raise AssertionError("a finished arm was run again")

    monkeypatch.setattr("keeptune.studies.selection.trained", never)
    again = run_study("selection", str(recipe), tmp_path / "s", choices=CHOICES, quiet=True)
    assert again == result


@pytest.mark.slow
def test_a_selector_that_the_base_cannot_serve_is_named(recipe, tmp_path):
    encoder = tmp_path / "encoder"
    folder_of(encoder, "bert")
    words = [f"w{number}" for number in range(3, 40)]
    rows = [{"text": f"{one} {two}", "label": one} for one in words[:12] for two in words]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [f"model.name={encoder}", "model.dtype=float32"]
    choices = ["shares=[0.1]", "selectors=[ifd, kcenter]", "seeds=3"]
    result = run_study("selection", str(recipe), tmp_path / "s", settings=settings, choices=choices, quiet=True)
    assert result["refused"] == {"ifd": "it cannot read a model of the kind 'encoder'"}
    assert [one["by"] for one in result["comparisons"]] == ["kcenter"]
    assert "Not computed: ifd, it cannot read a model of the kind 'encoder'." in result["text"]


def test_a_recipe_that_measures_nothing_is_refused(recipe, tmp_path):
    with pytest.raises(RecipeError) as fault:
        run_study("selection", str(recipe), tmp_path / "s", settings=["proof.target=null"], quiet=True)
    assert fault.value.code == "E-STUDY-TARGET"


def arm(by, share, score, rows, **looks):
    seen = {"radius": 1.0, "distance": 0.5, "nearest_query": None, "words": 9.0, "answer_words": 1.0, "answers": 4}
    return {"by": by, "share": share, "score": score, "rows": rows, "tokens": 10 * rows, "looks": {**seen, **looks}}


def example(metric, scores, verdict):
    arms = [arm("all", 1.0, 0.9, 100), *(arm("random", 0.1, value, 10) for value in scores), arm("rds", 0.1, 0.7, 10)]
    change = 0.7 - sum(scores) / len(scores)
    return {
        "recipe": "r", "model": "m", "metric": metric, "n": 50, "higher_is_better": True, "rows": 100, "seeds": 3,
        "length": {"steps": 5}, "methods": ["head"], "level": 0.9, "arms": arms,
        "comparisons": [{"by": "rds", "share": 0.1, "change": change, "low": change - 0.1, "high": change + 0.1,
                         "verdict": verdict}],
    }  # fmt: skip


def test_the_page_says_what_the_numbers_say():
    nothing = selection_text(example("label_accuracy", [0.6, 0.65, 0.7], "no difference shown"))
    assert "Nothing beats random here; differences below 10.0 points could not be told apart." in nothing
    assert "| random | 65.0% ± 5.0 |" in nothing
    assert "| rds | +5.0 (−5.0 to +15.0) |" in nothing
    better = selection_text(example("label_accuracy", [0.4, 0.4, 0.4], "better"))
    assert "Better than random: rds at 0.1 (+30.0)." in better
    bits = selection_text(example("bits_per_byte", [0.8, 0.8, 0.8], "worse"))
    assert "Worse than random: rds at 0.1 (−0.1000)." in bits
    assert "Nothing beats random" in bits
