"""Virtual tokens leave fewer positions to a text where positions are a table: rows are left out, in proofs by name."""

from __future__ import annotations

import json

import pytest

from keeptune.core.errors import DataError, PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.book import book_of
from keeptune.engine.positions import positions_before
from keeptune.engine.scoring import Scored, token_logprobs
from keeptune.methods import Method
from keeptune.methods.p_tuning import PTuning
from keeptune.models.load import load
from keeptune.recipes.check import check_recipe
from keeptune.recipes.plan import plan_recipe
from keeptune.recipes.positions_left import positions_taken
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.run import run_recipe
from tests.contracts.test_methods import NAMES, small
from tests.evaluations.tiny_subject import learned, tiny, tokenizer
from tests.methods.test_templates import folder_of
from tests.tiny_models import tiny_model

RECIPE = """\
name: long
seed: 1
model: {{name: {model}, dtype: float32}}
data:
  task: {{format: prompt_completion, path: task.jsonl, prompt: text, completion: label}}
split: {{dev: 0.2, test: 0.3}}
stages:
  - name: train
    method: {method}
    data: task
    steps: 2
    batch_tokens: 256
proof: {{target: {{data: task, metric: label_accuracy}}, suite: suite.yaml}}
"""
PROMPT, PREFIX = "{name: prompt, length: 20}", "{name: prefix, length: 20, hidden: null}"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A GPT-2 with 64 positions, and rows of up to nearly as many tokens."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, model in (("table", learned(64)), ("computed", tiny(max_position_embeddings=64))):
        model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)

    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("task.jsonl", [{"text": f"{n} " + "word " * (n % 38), "label": ["red", "blue"][n % 2]} for n in range(120)])
    write("doors.jsonl", [
        {"prompt": f"The door {n} is " + "shut " * (n % 40), "options": [" open", " not"], "gold": 0} for n in range(40)
    ])  # fmt: skip
    write("prose.jsonl", [{"text": f"Lantern {n} hung over the long quay. " * 12} for n in range(4)])
    (tmp_path / "suite.yaml").write_text(
        "tasks:\n  - {name: doors, file: doors.jsonl, kind: choice}\n"
        "  - {name: prose, file: prose.jsonl, kind: corpus}\n"
    )
    return tmp_path


def recipe(work, model, method):
    (work / "recipe.yaml").write_text(RECIPE.format(model=work / model, method=method))
    return "recipe.yaml"


@pytest.mark.parametrize("method", [PROMPT, PREFIX])
def test_a_run_leaves_room_for_virtual_tokens_in_training_and_in_its_proof(work, method):
    done = run_recipe(recipe(work, "table", method), work / "run", [], quiet=True)
    counts = json.loads((work / "run" / "data.json").read_text())["sources"]["task"]["encoding"]
    assert 0 < counts["long"] == counts["dropped"] < counts["read"]
    told = {one["name"]: one for one in done["certificate"]["left_out"]}
    assert {one["context"] for one in told.values()} == {44}
    assert {"task, test", "doors"} <= told.keys()
    seen, _ = check_recipe("recipe.yaml", [], quiet=True)
    assert seen["sources"][0]["counts"]["encoded long"] == counts["long"]


def test_where_positions_are_computed_virtual_tokens_take_none(work):
    done = run_recipe(recipe(work, "computed", PROMPT), work / "run", [], quiet=True)
    counts = json.loads((work / "run" / "data.json").read_text())["sources"]["task"]["encoding"]
    assert counts["long"] == 0
    assert all(one["context"] == 64 for one in done["certificate"]["left_out"])


def test_a_prompt_that_leaves_no_position_is_refused_with_the_number(work, monkeypatch):
    monkeypatch.setattr("keeptune.recipes.plan.product_rate", lambda device, dtype: 1e11)
    for ask in (lambda name: run_recipe(name, work / "run", [], quiet=True), lambda name: plan_recipe(name, [])):
        with pytest.raises(PlanError, match="64 virtual tokens leave no position for the text") as refused:
            ask(recipe(work, "table", "{name: prompt, length: 64}"))
        assert refused.value.code == "E-METHOD-LENGTH"


def test_what_serves_a_source_is_what_takes_of_its_rows(work):
    recipe(work, "table", PROMPT)
    text = (
        (work / "recipe.yaml").read_text().replace("data: task\n", "data: {task: 0.5, general: 0.5}\n    scope: task\n")
    )
    general = "  general: {format: prompt_completion, path: task.jsonl, prompt: text, completion: label}\nsplit"
    (work / "recipe.yaml").write_text(text.replace("split", general))
    config = learned(64).config.to_dict()
    assert positions_taken(load_recipe("recipe.yaml"), config, tokenizer()) == {"task": 20, "general": 0}


@pytest.mark.parametrize("name", NAMES)
def test_a_method_takes_the_positions_that_it_takes_when_it_is_attached(name):
    model, method = tiny_model("gpt2"), small(name)
    try:
        method.attach(model, "one")
    except PlanError:
        pytest.skip("not on this family")
    assert method.takes(ModelShape.from_config(model.config.to_dict()), None) == positions_before(model, ["one"])


def test_the_words_of_a_template_take_positions_too(tmp_path):
    loaded = load(folder_of(tmp_path / "base", "bert"), dtype="float32", device="cpu")
    method = PTuning(template="{soft:2} w7 {text} w8 w9 {soft:3} {mask}", verbaliser={"a": "w5", "b": "w6"})
    method.attach(loaded.model, "one")
    shape = ModelShape.from_config(loaded.model.config.to_dict())
    room = book_of(loaded.model).room(("one",))
    assert method.takes(shape, loaded.tokenizer) == positions_before(loaded.model, ["one"]) == room == 9


def test_a_text_that_a_prompt_pushes_past_the_table_is_refused_by_name():
    model = learned(32)
    Method.find("prompt")(length=8).attach(model, "one")
    rows = [Scored(tuple(range(5, 5 + length)), 1) for length in (24, 25)]
    assert token_logprobs(model, rows[:1], 100)
    with pytest.raises(DataError, match="33 tokens, virtual ones counted, and the model has 32"):
        token_logprobs(model, rows, 100)
