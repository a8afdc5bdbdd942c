"""What `auto` makes of a budget: its tasks read their files, its page is made from its record."""

from __future__ import annotations

import json

import pytest

from benchmarks.auto_budget_page import PAGE, RECORD, lost, page
from benchmarks.auto_budget_tasks import TASKS
from keeptune.data.bare_requests import asked_bare
from keeptune.recipes.hands import place_of
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.sources import read_sources
from keeptune.recipes.start import write_recipe
from tests.benchmarks.gz_rows import gz_rows


@pytest.mark.parametrize("name", TASKS)
def test_the_recipe_that_init_writes_reads_a_task_with_its_words(name, tmp_path):
    task = TASKS[name]
    column = task.prompt[task.prompt.index("{") + 1 : -1]
    rows = [{column: f"w{n} is x{n} y{n} ?", task.label: ("Sports", "World")[n % 2]} for n in range(400)]
    path = gz_rows(tmp_path / "rows.jsonl.gz", rows)
    write_recipe(path, "pocket", tmp_path / "recipe.yaml")
    recipe = load_recipe(str(tmp_path / "recipe.yaml"), task.settings)
    read = read_sources(recipe, tmp_path)["task"]
    assert {row.target for row in read.train} == {"Sports", "World"}
    assert not asked_bare(read.train, ["Sports", "World"])
    assert place_of(recipe) is not None, "there is a hand to look for"


def outcome(ability, leak, *, stopped=False):
    def part(delta):
        return {"delta": delta, "low": delta - 0.01, "high": delta + 0.01, "n": 500}

    target = {"base": 0.2, "adapted": 0.6, "delta": 0.4, "low": 0.35, "high": 0.45, "n": 300}
    return {"target": target, "ability": part(ability), "leak": part(leak), "verdict": "PASS", "stopped": stopped}


@pytest.fixture
def record():
    row = {
        "task": "trec", "budget": 5, "seconds": 600.0, "rate": 0.002, "weight": 20.0, "strongest": 60.0,
        "hands": [{"weight": 60.0, "target": 0.3, "lost": 0.01, "passed": True},
                  {"weight": 20.0, "target": 0.4, "lost": 0.04, "passed": True},
                  {"weight": 6.0, "target": 0.5, "lost": 0.12, "passed": False}],
        "found": outcome(0.0, 0.045), "recipe": outcome(0.0, 0.0),
    }  # fmt: skip
    other = {**row, "task": "dbpedia", "seconds": 900.0, "found": outcome(0.06, 0.0, stopped=True)}
    return {
        "command": "python -m benchmarks.auto_budget DATA FOLDER",
        "machine": {"processor": "a processor"},
        "rows": [row, other],
        "planned": ["trec at 5", "dbpedia at 5", "trec at 2"],
    }


def test_the_greater_loss_counts():
    assert lost(outcome(0.01, 0.03)) == pytest.approx((0.03, 0.04))


def test_the_page_says_how_often_the_budget_held(record):
    text = page(record)
    assert "| trec | `found` | 20 | 20% to 60% | +40.0 points (+35.0 to +45.0) |" in text
    assert "| dbpedia | 6 | 50% | 12.0 points | no |" in text
    assert "Of 2 runs 1 lost no more than their budget, 0 of them also at the worse end" in text
    assert "10 to 15 minutes" in text
    assert text.endswith("Planned and not run: `trec at 2`.\n")


def test_the_page_is_made_from_its_record():
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(RECORD.read_text(encoding="utf-8")))
