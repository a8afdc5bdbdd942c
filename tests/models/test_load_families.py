"""Loading encoders, encoder-decoders and ViT: the reference's outputs, dropout off, and what is refused."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForSequenceClassification, BertForPreTraining, ViTForImageClassification

from keeptune.core.errors import KeeptuneError
from keeptune.core.shape import ModelShape
from keeptune.models.load import load
from tests.models.test_load import save_tokenizer
from tests.tiny_models import IMAGES, OTHERS, inputs_of, tiny_model


def saved(folder, name, model=None):
    (model or tiny_model(name)).save_pretrained(folder)
    if name not in IMAGES:
        save_tokenizer(folder)
    return folder


def outcome(model, name):
    """In float64, where eager attention and SDPA agree."""
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs_of(name).items()}
    output = model.double()(**inputs)
    return output.logits if "logits" in output else output.last_hidden_state


@pytest.mark.parametrize("name", OTHERS)
def test_a_loaded_model_gives_what_it_was_saved_with_and_its_dropout_is_off(tmp_path, name):
    loaded = load(saved(tmp_path, name), dtype="float32", device="cpu")
    assert type(loaded.model) is type(tiny_model(name))
    assert (loaded.tokenizer is None) == (name in IMAGES)
    assert ModelShape.from_config(loaded.model.config.to_dict()).parameters() == loaded.model.num_parameters()
    with torch.no_grad():
        expected = outcome(tiny_model(name), name)
        torch.testing.assert_close(outcome(loaded.model, name), expected, rtol=1e-5, atol=1e-5)
        loaded.model.train()
        torch.testing.assert_close(outcome(loaded.model, name), expected, rtol=1e-5, atol=1e-5)


def test_a_pooler_and_a_next_sentence_head_beside_the_masked_one_are_left_out(tmp_path):
    whole = BertForPreTraining(tiny_model("bert").config)
    loaded = load(saved(tmp_path, "bert", whole), dtype="float32", device="cpu")
    assert type(loaded.model).__name__ == "BertForMaskedLM"
    assert torch.equal(loaded.model.cls.predictions.bias, whole.cls.predictions.bias)


def test_a_folder_with_another_head_or_without_the_masked_one_is_refused(tmp_path):
    classifier = AutoModelForSequenceClassification.from_config(tiny_model("bert").config)
    with pytest.raises(KeeptuneError) as caught:
        load(saved(tmp_path / "classifier", "bert", classifier), device="cpu")
    assert caught.value.code == "E-MODEL-WEIGHTS"
    folder = saved(tmp_path / "bare", "bert, bare")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(KeeptuneError) as caught:
        load(folder, device="cpu")
    assert "missing" in caught.value.what


def test_a_foreign_tensor_in_an_encoders_files_is_refused(tmp_path):
    folder = saved(tmp_path, "roberta")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(
        {**tensors, "roberta.extra": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(KeeptuneError) as caught:
        load(folder, device="cpu")
    assert caught.value.code == "E-MODEL-WEIGHTS"
    assert "extra" in caught.value.what


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_code_that_a_folder_names_is_never_run(tmp_path, name):
    folder = saved(tmp_path, name)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoModelForMaskedLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('this ran')")
    assert load(folder, dtype="float32", device="cpu").anatomy.family == name


def test_a_vit_that_was_saved_with_a_classifier_is_its_body(tmp_path):
    """Without a pooler, which is zeros then, and so the same model whenever it is loaded."""
    whole = ViTForImageClassification(tiny_model("vit").config).eval()
    whole.save_pretrained(tmp_path)
    one, two = (load(tmp_path, dtype="float32", device="cpu") for _ in range(2))
    assert type(one.model).__name__ == "ViTModel"
    assert one.fingerprint == two.fingerprint
    assert not one.model.pooler.dense.weight.any()
    pixels = inputs_of("vit")
    with torch.no_grad():
        torch.testing.assert_close(one.model(**pixels).last_hidden_state, whole.vit(**pixels).last_hidden_state)


def test_a_vit_whose_body_is_not_whole_is_refused(tmp_path):
    folder = saved(tmp_path, "vit")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("cls_token"))]
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(KeeptuneError) as caught:
        load(folder, device="cpu")
    assert caught.value.code == "E-MODEL-WEIGHTS"
