"""The three data sets of the selection study: their recipes read them, and what is held out stays out."""

from __future__ import annotations

import pytest

from benchmarks.selection_texts import LETTERS, QUERIES, RECIPES, prepare
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.sources import read_sources
from tests.benchmarks.gz_rows import gz_rows


@pytest.fixture
def data(tmp_path):
    def write(name, rows):
        gz_rows(tmp_path / "data" / f"{name}.jsonl.gz", rows)

    write("nlu/banking77_train", [{"text": f"card {n}", "category": f"c{n % 5}"} for n in range(200)])
    parts = {"train": 60, "val": 2500, "test": 31, "oos_test": 9}
    write(
        "nlu/clinc150_small",
        [{"text": f"{p} {n}", "intent": f"i{n % 3}", "split": p} for p, most in parts.items() for n in range(most)],
    )
    answers = ["short", "x" * LETTERS]
    write(
        "instructions/dolly_4k", [{"instruction": f"q {n}", "input": "", "output": answers[n % 2]} for n in range(400)]
    )
    return tmp_path / "data"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_reads_its_rows(name, data, tmp_path):
    own = prepare(data, tmp_path, name)
    recipe = load_recipe(str(own / "recipe.yaml"))
    task = read_sources(recipe, own)["task"]
    assert task.train
    assert task.test
    assert recipe.name == name
    if name == "clinc150-head":
        assert (len(task.train), len(task.dev), len(task.test)) == (60, QUERIES, 15)
        assert not [row for row in (*task.train, *task.test) if "oos" in row.messages[0].content]
    if name == "dolly-lora":
        assert {row.target for row in (*task.train, *task.dev, *task.test)} == {"short"}
    if name == "banking77-head":
        assert len(task.train) < 120, "half of the rows"
