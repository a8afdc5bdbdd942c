"""`keeptune data mix`: the rows that it shows are those that the stages draw, and their shares add up."""

from __future__ import annotations

import json

import pytest

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import RecipeError
from keeptune.recipes.material import gather
from keeptune.recipes.mixing import mix_recipe
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.workshop import Workshop
from keeptune.stages._plan import plan_steps
from keeptune.stages._progress import Progress

RECIPE = """\
name: two
seed: 5
model: {name: pocket}
data:
  long: {format: plain_text, path: long.jsonl}
  short: {format: prompt_completion, path: short.jsonl}
too_long: split
stages:
  - {name: train, id: first, method: lora, data: {long: 0.7, short: 0.3}, epochs: 1, batch_tokens: 2048}
  - {name: train, id: then, method: lora, data: short, sample: {short: 0.5}, steps: 4, batch_tokens: 128}
proof: null
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = [{"text": f"document {n} " + "word " * (1500 if n == 3 else 100)} for n in range(20)]
    asked = [{"prompt": f"count to {n}", "completion": f"{n} things"} for n in range(40)]
    for name, rows in (("long", texts), ("short", asked)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def test_the_rows_are_those_that_a_run_draws_in_its_order(recipe, tmp_path):
    result = mix_recipe(str(recipe), [], tmp_path / "drawn.jsonl", quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "drawn.jsonl").read_text().splitlines()]
    loaded = load_recipe(str(recipe))
    material = gather(loaded, tmp_path, Workshop(), Checkpoint("pocket"), Progress(quiet=True))
    expected = [
        (step + 1, row.source, row.id)
        for stage in loaded.stages
        for plan in [plan_steps(stage, material.train, 5, 0)]
        for step in range(len(plan))
        for row in plan.rows(step)
    ]
    assert [(row["step"], row["source"], row["id"]) for row in rows] == expected
    assert [one["stage"] for one in result["stages"]] == ["1 first", "2 then"]
    assert len({row["text"][:11] for row in rows if "text" in row}) == 20
    assert next(row for row in rows if "messages" in row)["messages"][1]["role"] == "assistant"


def test_shares_reached_are_of_the_tokens_and_near_those_asked_for(recipe):
    first, then = mix_recipe(str(recipe), [], quiet=True)["stages"]
    long, short = first["sources"]
    assert (long["source"], long["asked"]) == ("long", 0.7)
    assert long["drawn"] == long["there"] == 21  # one document is split in two
    assert long["reached"] + short["reached"] == pytest.approx(1)
    assert long["reached"] == pytest.approx(0.7, abs=0.2)  # within one row of the largest size
    assert [one["source"] for one in then["sources"]] == ["short"]
    assert then["steps"] == 4


def test_a_recipe_without_given_rows_and_a_file_that_exists_are_refused(recipe, tmp_path):
    with pytest.raises(RecipeError) as fault:
        mix_recipe(str(recipe), ["stages=[{name: prove}]"], quiet=True)
    assert fault.value.code == "E-MIX-STAGE"
    (tmp_path / "there.jsonl").write_text("")
    with pytest.raises(RecipeError) as fault:
        mix_recipe(str(recipe), [], tmp_path / "there.jsonl", quiet=True)
    assert fault.value.code == "E-RECIPE-EXISTS"
