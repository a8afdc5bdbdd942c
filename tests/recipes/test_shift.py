"""Out of distribution in a recipe: rows of another topic, a source of another domain."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from keeptune.core.errors import DataError, RecipeError
from keeptune.data.read import read_examples
from keeptune.models.load import look
from keeptune.recipes import plan
from keeptune.recipes.feed import feeds_of, surveys_of
from keeptune.recipes.material import Material
from keeptune.recipes.measuring import evaluations_of
from keeptune.recipes.passes import tokenizer_of
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.sources import read_sources

RECIPE = """\
name: shifted
seed: 3
data:
  task: {format: prompt_completion, path: task.jsonl, prompt: text, completion: label, shifted: {topic: [sports, arts]}}
  other: {format: prompt_completion, path: other.jsonl, prompt: text, completion: label}
split: {dev: 0.2, test: 0.3}
stages: [{name: train, method: lora, data: task}]
proof: {target: {data: task, metric: label_accuracy}, suite: suite.yaml}
"""


@pytest.fixture
def recipe(tmp_path):
    topics = ["sports", "world", "arts", "business"]
    rows = [
        {"text": f"row number {n} about {topics[n % 4]}", "label": "ab"[n // 4 % 2], "topic": topics[n % 4]}
        for n in range(200)
    ]
    other = [{"text": f"another text {n}", "label": "ab"[n % 2], "id": n} for n in range(30)]
    for name, table in (("task", rows), ("other", other)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def sources(path, *settings):
    return read_sources(load_recipe(path, list(settings)), path.parent)


def test_rows_of_a_shifted_topic_are_neither_learned_from_nor_tested_as_the_task(recipe):
    task = sources(recipe)["task"]
    topics = {part: Counter(row.prompt[0].content.split()[-1] for row in getattr(task, part)) for part in PARTS}
    assert topics["ood"] == {"sports": 50, "arts": 50}
    assert all(set(topics[part]) == {"world", "business"} for part in ("train", "dev", "test"))
    assert sum(sum(count.values()) for count in topics.values()) == 200
    # The other parts are those that a file without the shifted rows has.
    kept = [
        line for line in (recipe.parent / "task.jsonl").read_text().splitlines() if "world" in line or "busi" in line
    ]
    (recipe.parent / "task.jsonl").write_text("\n".join(kept))
    alone = sources(recipe, "data.task.shifted={}")["task"]
    for part in ("train", "dev", "test"):
        assert texts(getattr(alone, part)) == texts(getattr(task, part))


PARTS = ("train", "dev", "test", "ood")


def texts(rows):
    return [row.prompt[0].content for row in rows]


def test_a_source_of_another_domain_joins_them_and_is_measured_by_the_targets_metric(recipe):
    found = sources(recipe, "proof.ood=other")
    assert texts(found["task"].ood[100:]) == texts(found["other"].train)
    assert found["task"].ood[100].id == "other/0"
    assert found["task"].digest != sources(recipe)["task"].digest
    material = Material(found, {}, target="task")
    assert len(material.examples()["task/ood"]) == 130

    class Asked:
        data, suite, base = material.examples(), None, "base"

        def subject(self, checkpoint):
            return type("Subject", (), {"speaks": False, "kind": "encoder"})

    chosen = [
        one for one in evaluations_of(load_recipe(recipe, ["proof.ood=other"]), "base", Asked()) if one.name == "target"
    ]
    assert [(one.metric, one.split) for one in chosen] == [("label_accuracy", "test"), ("label_accuracy", "ood")]


def test_check_holds_shifted_rows_against_what_is_trained(recipe):
    loaded = load_recipe(recipe, ["proof.ood=other"])
    feeds = feeds_of(loaded, recipe.parent, surveys_of(loaded, recipe.parent))
    assert feeds["task"].counts["ood"] == 100
    assert len(feeds["other"].held) == 30
    assert all(row.part != "ood" for row in feeds["task"].train())


def test_a_shift_that_is_none_is_refused(recipe):
    with pytest.raises(RecipeError, match="no shift"):
        load_recipe(recipe, ["proof.ood=task"])
    with pytest.raises(RecipeError, match="does not have"):
        load_recipe(recipe, ["proof.ood=others"])
    for wrong, code in (("{topic: [sport]}", "E-DATA-SHIFT"), ("{topics: [sports]}", "E-DATA-KEY")):
        with pytest.raises(DataError) as caught:
            sources(recipe, f"data.task.shifted={wrong}")
        assert caught.value.code == code
    everything = "{topic: [sports, arts, world, business]}"
    with pytest.raises(DataError, match="would be empty"):
        sources(recipe, f"data.task.shifted={everything}")
    (recipe.parent / "other.jsonl").write_text(json.dumps({"text": "a text", "label": "A"}) + "\n")
    with pytest.raises(DataError) as caught:
        sources(recipe, "proof.ood=other")
    assert caught.value.code == "E-DATA-SHIFT-LABELS"


def test_a_column_split_may_say_ood(recipe):
    rows = [json.loads(line) for line in (recipe.parent / "task.jsonl").read_text().splitlines()]
    for row in rows:
        row["split"] = "ood" if row["topic"] == "sports" else None
    (recipe.parent / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = load_recipe(recipe, ["data.task.shifted={}"]).data["task"]
    assert Counter(row.part for row in read_examples(settings, "task", folder=recipe.parent).examples) == {
        "ood": 50,
        "": 150,
    }
    assert len(sources(recipe, "data.task.shifted={}")["task"].ood) == 50


def test_plan_counts_the_shifted_rows_among_what_the_proof_reads(recipe):
    config, loaded_tokenizer = look("pocket")[0], tokenizer_of("pocket")

    def read(*settings):
        loaded = load_recipe(recipe, ["proof.suite=embedded", "proof.items=50", *settings])
        found = plan._proof(loaded, recipe.parent, read_sources(loaded, recipe.parent), loaded_tokenizer, config, 1e9)
        return found["read"]

    assert read("proof.ood=other") > read()
