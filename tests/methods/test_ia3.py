"""IA3 against PEFT and against its formula."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.methods import IA3, LoRA, load_adapter, save_adapter
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))
FAMILIES = ["llama", "gpt2", "gpt_neox", "qwen2", "gemma2"]
PEFTS_NAMES = {
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "gpt_neox": (["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"]),
}


def randomise(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            if "ia3_l" in key:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def peft_model(family):
    targets, inner = PEFTS_NAMES.get(family, (["k_proj", "v_proj", "down_proj"], ["down_proj"]))
    config = IA3Config(
        target_modules=targets, feedforward_modules=inner, fan_in_fan_out=family == "gpt2", task_type="CAUSAL_LM"
    )
    return randomise(get_peft_model(tiny_model(family), config).eval())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_peft_loads_with_its_logits(tmp_path, family):
    theirs = peft_model(family)
    theirs.save_pretrained(tmp_path)
    ours = tiny_model(family)
    load_adapter(ours, tmp_path)
    assert_close(ours(TOKENS).logits, theirs(TOKENS).logits, **CLOSE)
    assert (ours(TOKENS).logits - tiny_model(family)(TOKENS).logits).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_our_folder_loads_in_peft_with_our_logits(tmp_path, family):
    ours = tiny_model(family)
    IA3().attach(ours, "ana")
    randomise(ours)
    save_adapter(ours, "ana", tmp_path)
    theirs = PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    assert_close(theirs(TOKENS).logits, ours(TOKENS).logits, **CLOSE)


@pytest.mark.parametrize("family", ["llama, biases, one key head, tied", "gpt2"])
def test_merging_scales_rows_columns_and_biases(family):
    model = tiny_model(family)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.fill_(0.3)
    IA3().attach(model)
    before = randomise(model)(TOKENS).logits
    IA3().merge(model, "default")
    assert_close(model(TOKENS).logits, before, **CLOSE)


def test_merging_beside_another_adapter_is_refused_because_scaling_does_more_than_add():
    model = tiny_model("llama")
    LoRA(rank=2).attach(model, "below")
    IA3().attach(model, "above")
    with pytest.raises(PlanError) as caught:
        IA3().merge(model, "above")
    assert caught.value.code == "E-ADAPTER-MERGE"


def test_the_count_of_a_7b_llama_is_the_published_one():
    config = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32,
    }  # fmt: skip
    assert IA3().cost(ModelShape.from_config(config)).trainable_parameters == 614_400


def test_other_maps_of_peft_are_read_by_where_their_vectors_stand(tmp_path):
    config = IA3Config(target_modules=["q_proj", "up_proj"], feedforward_modules=["up_proj"], task_type="CAUSAL_LM")
    theirs = randomise(get_peft_model(tiny_model("llama"), config).eval())
    theirs.save_pretrained(tmp_path)
    ours = tiny_model("llama")
    load_adapter(ours, tmp_path)
    assert_close(ours(TOKENS).logits, theirs(TOKENS).logits, **CLOSE)
