"""An adapter knows its base: weights, shape, tokenizer and template."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from keeptune.core.errors import ModelError
from keeptune.methods import LoRA, load_adapter, save_adapter
from keeptune.models.load import load
from tests.models.test_load import save_model, save_tokenizer
from tests.tiny_models import tiny_model


@pytest.fixture
def place(tmp_path):
    """A model folder, and an adapter that was trained on it."""
    save_model(tmp_path / "model")
    model = load(tmp_path / "model", dtype="float32", device="cpu").model
    LoRA(rank=2).attach(model, "ana")
    save_adapter(model, "ana", tmp_path / "ana")
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    return tmp_path


def other_weights(folder):
    tiny_model("llama", seed=1).save_pretrained(folder)


def other_shape(folder):
    tiny_model("llama", num_hidden_layers=3).save_pretrained(folder)


def other_tokenizer(folder):
    save_tokenizer(folder, words=40)


def other_template(folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_weights, "meaningless"),
        (other_shape, "other names or shapes"),
        (other_tokenizer, "another tokenizer"),
    ],
)
def test_another_base_is_refused_with_what_is_different_unless_forced(place, change, said):
    change(place / "other")
    model = load(place / "other", dtype="float32", device="cpu").model
    with pytest.raises(ModelError) as caught:
        load_adapter(model, place / "ana")
    assert caught.value.code == "E-ADAPTER-BASE"
    assert said in str(caught.value)
    assert not hasattr(model, "keeptune")
    if change is not other_shape:
        load_adapter(model, place / "ana", force=True)
        assert torch.isfinite(model(torch.tensor([[3, 4]])).logits).all()


def test_another_template_is_refused_where_the_first_had_one(place):
    other_template(place / "other")
    first = load(place / "other", dtype="float32", device="cpu").model
    load_adapter(first, place / "ana")  # its own base had no template, so there is nothing to compare
    save_adapter(first, "default", place / "bo")
    (place / "other" / "chat_template.jinja").write_text("{{ messages }}")
    second = load(place / "other", dtype="float32", device="cpu").model
    with pytest.raises(ModelError, match="another chat template"):
        load_adapter(second, place / "bo")
    load_adapter(second, place / "bo", force=True)


def test_the_same_base_in_another_dtype_or_place_is_the_same_base(place):
    model = load(place / "other", dtype="bfloat16", device="cpu").model
    load_adapter(model, place / "ana")
    record = json.loads((place / "ana" / "keeptune.json").read_text())["base"]
    assert all(len(record[key]) == 64 for key in ("shape", "fingerprint", "tokenizer"))


def test_what_a_folder_does_not_say_is_not_asked(place):
    path = place / "ana" / "keeptune.json"
    record = json.loads(path.read_text())
    for key in ("shape", "tokenizer", "template"):
        del record["base"][key]
    path.write_text(json.dumps(record))
    other_tokenizer(place / "other")
    load_adapter(load(place / "other", dtype="float32", device="cpu").model, place / "ana")
