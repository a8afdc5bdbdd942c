"""`keeptune merge` and `keeptune export`: what stock transformers and PEFT then compute, and what is never written."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from keeptune.core.errors import KeeptuneError
from keeptune.engine.book import base_state_dict
from keeptune.methods import Bottleneck, Full, LoRA, Method, Prefix, save_adapter
from keeptune.models.anatomy import anatomy_of
from keeptune.models.load import load
from keeptune.recipes.exporting import export_adapter
from keeptune.recipes.merging import merge_checkpoint
from tests.contracts.test_methods import shaken
from tests.models.test_load import save_tokenizer
from tests.tiny_models import inputs_of, tiny_model

STOCK = {"llama": AutoModelForCausalLM, "bert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}


def saved(tmp_path, family, *methods, quantize=None):
    """A base folder, adapter folders on it, and what the model says with all of them active."""
    tiny_model(family).save_pretrained(tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    model = load(tmp_path / "base", dtype="float32", device="cpu", quantize=quantize).model
    for number, method in enumerate(methods):
        shaken(model, method, f"a{number}", seed=number)
        save_adapter(model, f"a{number}", tmp_path / f"a{number}")
    if methods:
        model.keeptune.choose(tuple(f"a{number}" for number in range(len(methods))))
    with torch.no_grad():
        said = model(**inputs_of(family)).logits
    return str(tmp_path / "base"), [str(tmp_path / f"a{number}") for number in range(len(methods))], said


def refusal(call, *args, **settings):
    with pytest.raises(KeeptuneError) as caught:
        call(*args, **settings)
    assert caught.value.fix
    return caught.value.code


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.name not in ("base", "a0", "a1"))


@pytest.mark.parametrize("family", STOCK)
def test_a_merged_folder_answers_in_stock_transformers_as_the_adapted_model(tmp_path, family):
    base, adapters, said = saved(tmp_path, family, LoRA(rank=4), LoRA(rank=2, targets=["v"]))
    found = merge_checkpoint(base, adapters, tmp_path / "out")
    stock = STOCK[family].from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    assert stock.dtype == torch.float32
    torch.testing.assert_close(stock(**inputs_of(family)).logits, said, rtol=1e-4, atol=1e-4)
    assert max(found["folded"], found["written"], found["rounding"]) <= 1e-4
    assert left(tmp_path) == ["out"]
    assert json.loads((tmp_path / "out" / "merged.json").read_text())["base"] == base


def test_a_16_bit_folder_is_that_model_rounded_once(tmp_path):
    base, adapters, _ = saved(tmp_path, "llama", LoRA(rank=4))
    merge_checkpoint(base, adapters, tmp_path / "wide")
    found = merge_checkpoint(base, adapters, tmp_path / "out", dtype="bfloat16")
    exact = AutoModelForCausalLM.from_pretrained(tmp_path / "wide").state_dict()
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert all(torch.equal(rounded[key], value.bfloat16()) for key, value in exact.items())
    assert found["folded"] < 1e-5
    assert found["written"] < 1e-5 < found["rounding"]


def test_a_fold_that_is_wrong_is_found_and_nothing_is_written(tmp_path, monkeypatch):
    base, adapters, _ = saved(tmp_path, "llama", LoRA(rank=4, alpha=4))
    right = LoRA.fold

    def twice(self, model, placed):
        right(self, model, placed)
        right(self, model, placed)

    monkeypatch.setattr(LoRA, "fold", twice)
    assert refusal(merge_checkpoint, base, adapters, tmp_path / "out") == "E-MERGE-DIFFERENT"
    assert left(tmp_path) == []


def test_what_has_no_form_as_weights_is_refused_and_nothing_is_written(tmp_path):
    base, adapters, _ = saved(tmp_path, "llama", Prefix(length=3, hidden=None))
    assert refusal(merge_checkpoint, base, adapters, tmp_path / "out") == "E-ADAPTER-MERGE"
    assert left(tmp_path) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    base, adapters, _ = saved(tmp_path, "llama", LoRA(rank=4))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert refusal(merge_checkpoint, base, adapters, tmp_path / "out") == "E-OUTPUT-EXISTS"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def run_folder(tmp_path, scope):
    """What a finished run leaves: a checkpoint with an adapter in its stage's folder."""
    base, adapters, said = saved(tmp_path, "llama", LoRA(rank=4))
    adapter = {"name": "train", "path": adapters[0], "scope": scope}
    (tmp_path / "run").mkdir()
    plain = {"base": base, "revision": None, "dtype": "float32", "quantize": None, "adapters": [adapter]}
    (tmp_path / "run" / "checkpoint.json").write_text(json.dumps(plain))
    return str(tmp_path / "run"), said


def test_an_adapter_that_answers_its_task_alone_is_not_merged_for_everybody(tmp_path):
    run, _ = run_folder(tmp_path, "task")
    assert refusal(merge_checkpoint, run, (), tmp_path / "out") == "E-MERGE-ROUTED"
    export_adapter(run, (), tmp_path / "out")


def test_a_run_is_merged_by_its_folder_alone(tmp_path):
    run, said = run_folder(tmp_path, "always")
    merge_checkpoint(run, (), tmp_path / "out")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(stock(**inputs_of("llama")).logits, said, rtol=1e-4, atol=1e-4)


def test_a_4_bit_base_becomes_the_weights_that_the_adapter_was_trained_on(tmp_path):
    base, adapters, said = saved(tmp_path, "llama", LoRA(rank=4), quantize="nf4")
    adapter = {"name": "train", "path": adapters[0], "scope": "always"}
    plain = {"base": base, "revision": None, "dtype": "float32", "quantize": "nf4", "adapters": [adapter]}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.json").write_text(json.dumps(plain))
    merge_checkpoint(str(tmp_path / "run"), (), tmp_path / "out")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(stock(**inputs_of("llama")).logits, said, rtol=1e-4, atol=1e-4)


def test_a_fully_trained_run_is_a_stock_folder_by_itself(tmp_path):
    model = shaken(tiny_model("llama"), Full())
    model.save_pretrained(tmp_path / "tuned", state_dict=base_state_dict(model))
    save_tokenizer(tmp_path / "tuned")
    found = merge_checkpoint(str(tmp_path / "tuned"), (), tmp_path / "out")
    assert found["folded"] == found["written"] == 0.0


@pytest.mark.parametrize("family", STOCK)
@pytest.mark.parametrize("name", ["lora", "ia3", "dora"])
def test_an_exported_folder_answers_in_peft_as_in_keeptune(tmp_path, family, name):
    method = Method.find(name)
    base, adapters, said = saved(tmp_path, family, method() if name == "ia3" else method(rank=4))
    found = export_adapter(base, adapters, tmp_path / "out")
    wrapped = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path / "out").eval()
    torch.testing.assert_close(wrapped(**inputs_of(family)).logits, said, rtol=1e-4, atol=1e-4)
    assert found["difference"] <= 1e-4
    assert left(tmp_path) == ["out"]


def test_an_adapter_of_a_4_bit_base_is_exported_and_peft_answers_alike_on_these_weights(tmp_path):
    base, adapters, said = saved(tmp_path, "llama", LoRA(rank=4), quantize="nf4")
    adapter = {"name": "train", "path": adapters[0], "scope": "always"}
    plain = {"base": base, "revision": None, "dtype": "float32", "quantize": "nf4", "adapters": [adapter]}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.json").write_text(json.dumps(plain))
    found = export_adapter(str(tmp_path / "run"), (), tmp_path / "out")
    assert "NF4" in found["text"]
    assert found["difference"] <= 1e-4
    stock = tiny_model("llama")
    with torch.no_grad():
        for path in anatomy_of(stock).linear_paths():
            weight = stock.get_submodule(path).weight
            packed = quantize_4bit(weight.clone(), blocksize=64, compress_statistics=True, quant_type="nf4")
            weight.copy_(dequantize_4bit(*packed))
    wrapped = peft.PeftModel.from_pretrained(stock, tmp_path / "out").eval()
    torch.testing.assert_close(wrapped(**inputs_of("llama")).logits, said, rtol=1e-4, atol=1e-4)


def test_an_image_encoder_is_merged_and_exported_too(tmp_path):
    tiny_model("vit").save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "preprocessor_config.json").write_text('{"image_mean": [0.1], "image_std": [0.3]}')
    model = load(tmp_path / "base", dtype="float32", device="cpu").model
    shaken(model, LoRA(rank=4), "a0")
    save_adapter(model, "a0", tmp_path / "a0")
    said = model(**inputs_of("vit")).last_hidden_state
    merge_checkpoint(str(tmp_path / "base"), [str(tmp_path / "a0")], tmp_path / "out")
    stock = AutoModel.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(stock(**inputs_of("vit")).last_hidden_state, said, rtol=1e-4, atol=1e-4)
    assert "0.3" in (tmp_path / "out" / "preprocessor_config.json").read_text()
    export_adapter(str(tmp_path / "base"), [str(tmp_path / "a0")], tmp_path / "peft")
    wrapped = peft.PeftModel.from_pretrained(tiny_model("vit"), tmp_path / "peft").eval()
    torch.testing.assert_close(wrapped(**inputs_of("vit")).last_hidden_state, said, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("methods", "code"),
    [
        ([Bottleneck(bottleneck=4)], "E-EXPORT-KIND"),
        ([LoRA(rank=2), LoRA(rank=2)], "E-EXPORT-COUNT"),
        ([], "E-EXPORT-COUNT"),
    ],
)
def test_what_peft_cannot_say_is_refused_with_what_to_do(tmp_path, methods, code):
    base, adapters, _ = saved(tmp_path, "llama", *methods)
    assert refusal(export_adapter, base, adapters, tmp_path / "out") == code
    assert left(tmp_path) == []


def test_an_export_that_peft_would_read_otherwise_is_not_written(tmp_path, monkeypatch):
    base, adapters, _ = saved(tmp_path, "llama", LoRA(rank=4))
    monkeypatch.setattr("keeptune.models.adapter_files.lora_config", wrong_alpha)
    assert refusal(export_adapter, base, adapters, tmp_path / "out") == "E-EXPORT-DIFFERENT"
    assert left(tmp_path) == []


def wrong_alpha(settings, modules, base):
    from keeptune.models.peft_config import lora_config

    return {**lora_config(settings, modules, base), "lora_alpha": 2 * settings["alpha"]}


def test_a_second_name_that_is_no_adapter_is_refused(tmp_path):
    base, _, _ = saved(tmp_path, "llama")
    assert refusal(merge_checkpoint, base, [base], tmp_path / "out") == "E-USAGE"
