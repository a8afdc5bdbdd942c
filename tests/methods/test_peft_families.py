"""PEFT as the oracle on encoders and encoder-decoders: the same files, the same logits, in both directions."""

from __future__ import annotations

import peft
import pytest
import torch
from torch.testing import assert_close

from keeptune.core.errors import ModelError
from keeptune.methods import LoRA, Prefix, Prompt, load_adapter, save_adapter
from tests.contracts.test_methods import shaken
from tests.models.test_adapter_files import edit
from tests.tiny_models import inputs_of, tiny_model

TASKS = {"bert": "FEATURE_EXTRACTION", "roberta": "FEATURE_EXTRACTION", "t5": "SEQ_2_SEQ_LM", "bart": "SEQ_2_SEQ_LM"}
TARGETS = {
    "bert": ["query", "attention.output.dense"],
    "roberta": ["key", "value"],
    "t5": ["q", "wo"],
    "bart": ["q_proj", "fc1"],
}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def said(model, family):
    """Logits in float64: with random weights of this size, two orders of float32 sums are 2e-5 apart."""
    with torch.no_grad():
        return model.double()(**inputs_of(family)).logits


def moved(model):
    """Every parameter of the adapter away from its start."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("family", TASKS)
def test_peft_reads_our_lora_with_our_logits(tmp_path, family):
    model = shaken(tiny_model(family), LoRA(rank=3))
    save_adapter(model, "one", tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    assert str(theirs.peft_config["default"].task_type).endswith(TASKS[family])
    assert_close(said(theirs, family), said(model, family), **CLOSE)


@pytest.mark.parametrize("family", TASKS)
def test_we_read_pefts_lora_with_its_logits(tmp_path, family):
    config = peft.LoraConfig(r=3, target_modules=TARGETS[family], task_type=TASKS[family])
    theirs = moved(peft.get_peft_model(tiny_model(family), config))
    theirs.save_pretrained(tmp_path)
    model = tiny_model(family)
    load_adapter(model, tmp_path)
    assert_close(said(model, family), said(theirs, family), **CLOSE)
    assert not torch.allclose(said(model, family), said(tiny_model(family), family))


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_peft_reads_our_prefix_with_our_logits(tmp_path, family):
    model = shaken(tiny_model(family), Prefix(length=4, hidden=8))
    save_adapter(model, "one", tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    assert_close(said(theirs, family), said(model, family), **CLOSE)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_we_read_pefts_prefix_with_its_logits(tmp_path, family):
    config = peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="FEATURE_EXTRACTION")
    theirs = moved(peft.get_peft_model(tiny_model(family), config))
    theirs.save_pretrained(tmp_path)
    model = tiny_model(family)
    load_adapter(model, tmp_path)
    assert_close(said(model, family), said(theirs, family), **CLOSE)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_three_prefixes_never_pretend_to_be_pefts(tmp_path, family):
    """PEFT would give all of them to the decoder, so the folder is ours."""
    save_adapter(shaken(tiny_model(family), Prefix(length=4, hidden=8)), "one", tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()


def test_peft_reads_our_prompt_before_the_encoder_of_a_t5(tmp_path):
    model = shaken(tiny_model("t5"), Prompt(length=4, init="uniform"))
    save_adapter(model, "one", tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny_model("t5"), tmp_path).eval()
    assert_close(said(theirs, "t5"), said(model, "t5"), **CLOSE)


def test_a_task_with_a_head_of_its_own_is_refused(tmp_path):
    save_adapter(shaken(tiny_model("bert"), LoRA(rank=3)), "one", tmp_path)
    edit(tmp_path, task_type="SEQ_CLS")
    with pytest.raises(ModelError) as caught:
        load_adapter(tiny_model("bert"), tmp_path)
    assert caught.value.code == "E-ADAPTER-UNSUPPORTED"
