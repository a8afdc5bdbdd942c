"""`keeptune init`: what a file says of itself is honoured, and a large file is not gone through for days."""

from __future__ import annotations

import json

import pytest

from keeptune.core.errors import RecipeError
from keeptune.core.example import Example
from keeptune.recipes.passes import MOST_STEPS, passes_of
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.sources import read_sources
from keeptune.recipes.start import write_recipe
from tests.methods.test_templates import folder_of
from tests.tiny_models import tiny_model


def documents(count, letters):
    return [Example(str(number), text="word " * (letters // 5)) for number in range(count)]


@pytest.mark.parametrize(("count", "epochs"), [(10, 3), (6000, 2)])
def test_small_data_is_gone_through_several_times(count, epochs):
    found = passes_of(documents(count, 100), None, share=0.5, batch_tokens=4096)
    assert found.epochs == epochs
    assert found.tokens == count * 25
    assert found.steps == max(1, round(epochs * count * 25 / 2048))


def test_twelve_megabytes_take_no_more_than_a_tenth_above_the_bound():
    found = passes_of(documents(1200, 10_000), None, share=0.5, batch_tokens=4096)
    assert found.epochs < 3
    assert 0.5 * MOST_STEPS < found.steps <= 1.1 * MOST_STEPS


def test_the_split_column_of_a_file_decides_what_is_held_out(tmp_path):
    data, recipe = tmp_path / "rows.jsonl", tmp_path / "recipe.yaml"
    names = ["train"] * 20 + ["val"] * 4 + ["oos_test"] * 6
    rows = [{"text": f"word {n}", "label": "ab"[n % 2], "split": name} for n, name in enumerate(names)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = write_recipe(data, "pocket", recipe)
    assert "{format: prompt_completion, path: rows.jsonl, prompt: text, completion: label}" in recipe.read_text()
    assert any("dev 4, test 6, train 20" in note for note in told["notes"])
    assert any(": 1 step, about" in note and "of training" in note for note in told["notes"])
    source = read_sources(load_recipe(recipe), tmp_path)["task"]
    assert source.split_counts() == {"train": 20, "dev": 4, "test": 6}
    assert {example.target for example in source.test} == {"a", "b"}
    assert [example.id for example in source.test] == [str(line) for line in range(25, 31)]


@pytest.fixture
def encoder(tmp_path):
    return str(folder_of(tmp_path / "model", "bert"))


def rows_of(tmp_path, rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_rows_with_a_worse_answer_point_to_what_learns_from_both(tmp_path):
    data, recipe = tmp_path / "pairs.jsonl", tmp_path / "recipe.yaml"
    rows = [{"prompt": f"say word {n}", "chosen": f"here is {n} {n}", "rejected": "no"} for n in range(60)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = write_recipe(data, "pocket", recipe)
    assert told["format"] == "preference"
    assert sum("`losses: [dpo]`" in note for note in told["notes"]) == 1
    both = ["stages[0].losses=[dpo]", "proof.target.metric=preference_accuracy"]
    assert load_recipe(recipe, both).paired == {"task", "replay"}
    assert load_recipe(recipe).paired == set()


def test_an_encoder_is_given_a_head_first_and_no_text_to_replay(tmp_path, encoder):
    labelled = [{"text": f"w{n % 40} w7", "label": ("low", "high")[n % 2]} for n in range(80)]
    write_recipe(rows_of(tmp_path, labelled), encoder, tmp_path / "recipe.yaml")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert list(recipe.data) == ["task"]
    assert [[method.name for method in stage.methods] for stage in recipe.stages] == [["head"], ["head", "lora"]]
    assert all([loss.name for loss in stage.losses] == ["label"] for stage in recipe.stages)


def test_an_encoder_is_not_asked_for_free_answers(tmp_path, encoder):
    free = [{"text": f"w{n % 40} w7", "answer": f"w{n} w{n + 1}"} for n in range(80)]
    with pytest.raises(RecipeError) as caught:
        write_recipe(rows_of(tmp_path, free), encoder, tmp_path / "recipe.yaml")
    assert caught.value.code == "E-INIT-ENCODER"
    assert not (tmp_path / "recipe.yaml").exists()


def test_an_encoder_goes_on_reading_plain_texts_by_masked_tokens(tmp_path, encoder):
    texts = [{"text": f"w{n % 40} w7 w{n % 30} w8 w9"} for n in range(80)]
    write_recipe(rows_of(tmp_path, texts), encoder, tmp_path / "recipe.yaml")
    (stage,) = load_recipe(tmp_path / "recipe.yaml").stages
    assert [method.name for method in stage.methods] == ["lora"]
    assert [loss.name for loss in stage.losses] == ["masked_token"]


def images_of(tmp_path, top):
    """Twenty images of eight rows, as whole numbers up to `top`."""
    file = tmp_path / "images.jsonl"
    rows = [[[[(n * y + x) % (top + 1) for x in range(8)] for y in range(8)], "ab"[n % 2]] for n in range(1, 21)]
    file.write_text("".join(json.dumps({"image": image, "label": label}) + "\n" for image, label in rows))
    return file


def test_images_are_seen_with_their_largest_level_and_the_recipe_teaches_a_vit_labels(tmp_path):
    tiny_model("vit").save_pretrained(tmp_path / "vit")
    told = write_recipe(images_of(tmp_path, 16), str(tmp_path / "vit"), tmp_path / "recipe.yaml")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert told["format"] == recipe.data["task"].name == "images"
    assert recipe.data["task"].top == 16
    assert [[method.name for method in stage.methods] for stage in recipe.stages] == [["head"], ["head", "lora"]]
    assert all(stage.batch_tokens == 32 * 64 for stage in recipe.stages)
    assert [loss.name for stage in recipe.stages for loss in stage.losses] == ["label", "label"]


def test_a_model_of_texts_is_not_given_images_nor_a_vit_texts(tmp_path):
    tiny_model("vit").save_pretrained(tmp_path / "vit")
    texts = rows_of(tmp_path, [{"prompt": f"word {n}", "completion": "ab"[n % 2]} for n in range(20)])
    for data, model in ((images_of(tmp_path, 255), "pocket"), (texts, str(tmp_path / "vit"))):
        with pytest.raises(RecipeError) as caught:
            write_recipe(data, model, tmp_path / "recipe.yaml")
        assert caught.value.code == "E-INIT-IMAGES"
