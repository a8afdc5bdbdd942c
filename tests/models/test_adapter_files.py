"""Adapter folders: round trips, PEFT as the oracle in both directions, and what is refused."""

from __future__ import annotations

import json

import peft
import pytest
import safetensors.torch
import torch

from keeptune.core.errors import ModelError
from keeptune.models.adapter_files import read_adapter, write_adapter
from tests.tiny_models import tiny_model

BASE = {"name": "tiny", "revision": None, "family": "llama", "fingerprint": "f" * 64}
LORA = {"name": "lora", "rank": 3, "alpha": 7.0, "dropout": 0.1, "targets": ["q", "v"]}
PATHS = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in "qv"]


def lora_tensors(paths=PATHS, rank=3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model = tiny_model("llama")
    tensors = {}
    for path in paths:
        outputs, inputs = model.get_submodule(path).weight.shape
        tensors[f"{path}.lora_A"] = 0.2 * torch.randn(rank, inputs)
        tensors[f"{path}.lora_B"] = 0.2 * torch.randn(outputs, rank)
    return tensors


def logits_with(model, tensors, scale) -> torch.Tensor:
    """The reference: W + s B A written into a copy of the weights."""
    with torch.no_grad():
        for path in {name.rpartition(".")[0] for name in tensors}:
            model.get_submodule(path).weight += scale * tensors[f"{path}.lora_B"] @ tensors[f"{path}.lora_A"]
        return model(torch.arange(3, 20)[None]).logits


def peft_folder(folder, **changes):
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        **changes,
    )
    model = peft.get_peft_model(tiny_model("llama"), config)
    model.save_pretrained(folder)
    with torch.no_grad():
        return model.eval()(torch.arange(3, 20)[None]).logits


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def code_of(folder) -> str:
    with pytest.raises(ModelError) as caught:
        read_adapter(folder)
    assert caught.value.where["file"]
    return caught.value.code


def test_a_lora_comes_back_as_it_was_written(tmp_path):
    write_adapter(tmp_path / "a", LORA, lora_tensors(), BASE)
    settings, tensors, base = read_adapter(tmp_path / "a")
    assert settings == LORA
    assert base == BASE
    assert all(torch.equal(tensors[name], tensor) for name, tensor in lora_tensors().items())
    assert len(tensors) == len(lora_tensors())


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_reads_our_lora_with_our_logits(tmp_path, rslora):
    write_adapter(tmp_path, {**LORA, "rslora": rslora}, lora_tensors(), BASE)
    model = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    with torch.no_grad():
        theirs = model(torch.arange(3, 20)[None]).logits
    ours = logits_with(tiny_model("llama"), lora_tensors(), 7.0 / (3**0.5 if rslora else 3))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5 * float(ours.abs().max()))


def test_peft_reads_our_rank_patterns(tmp_path):
    tensors = {**lora_tensors(PATHS[:2]), **lora_tensors(PATHS[2:], rank=5)}
    patterns = {"rank_pattern": {path: 5 for path in PATHS[2:]}, "alpha_pattern": {"1.self_attn.v_proj": 9.0}}
    write_adapter(tmp_path, {**LORA, **patterns}, tensors, BASE)
    model = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path)
    scales = {path: model.base_model.model.get_submodule(path).scaling["default"] for path in PATHS}
    assert list(scales.values()) == pytest.approx([7 / 3, 7 / 3, 7 / 5, 9 / 5])
    assert read_adapter(tmp_path)[0] == {**LORA, **patterns}


def test_patterns_by_role_are_kept_in_our_own_layout(tmp_path):
    settings = {**LORA, "alpha_pattern": {"q": 9.0}}
    write_adapter(tmp_path, settings, lora_tensors(), BASE)
    assert not (tmp_path / "adapter_config.json").exists()
    assert read_adapter(tmp_path)[0] == settings


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"lora_dropout": 0.2}, {"alpha_pattern": {"q_proj": 3}}])
def test_we_read_pefts_lora_with_its_logits(tmp_path, changes):
    theirs = peft_folder(tmp_path, **changes)
    settings, tensors, base = read_adapter(tmp_path)
    assert {key: settings[key] for key in ("name", "rank", "alpha")} == {"name": "lora", "rank": 4, "alpha": 6}
    assert settings["targets"] == list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    assert len(settings["targets"]) == 4
    assert base == {}
    scale = 6 / (4**0.5 if settings["rslora"] else 4)
    if not settings["alpha_pattern"]:
        ours = logits_with(tiny_model("llama"), tensors, scale)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    else:
        assert settings["alpha_pattern"] == {"q_proj": 3}


def test_peft_reads_our_soft_prompt_with_its_rows_before_the_text(tmp_path):
    torch.manual_seed(2)
    prompt = torch.randn(4, 32)
    write_adapter(tmp_path, {"name": "prompt", "length": 4}, {"prompt_embeddings": prompt}, BASE)
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()(tokens).logits[:, 4:]
        base = tiny_model("llama")
        embedded = torch.cat([prompt[None], base.get_input_embeddings()(tokens)], dim=1)
        ours = base(inputs_embeds=embedded).logits[:, 4:]
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5 * float(ours.abs().max()))
    settings, tensors, base = read_adapter(tmp_path)
    assert settings == {"name": "prompt", "length": 4}
    assert torch.equal(tensors["prompt_embeddings"], prompt)
    assert base == BASE


def test_a_kind_that_peft_lacks_never_pretends_to_be_pefts(tmp_path):
    settings, tensors = {"name": "bottleneck", "width": 8}, {"model.layers.0.mlp.down": torch.randn(2, 3).bfloat16()}
    write_adapter(tmp_path, settings, tensors, BASE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.json", "adapter.safetensors"]
    read = read_adapter(tmp_path)
    assert read[0] == settings
    assert torch.equal(read[1]["model.layers.0.mlp.down"], tensors["model.layers.0.mlp.down"])
    assert read[2] == BASE


def test_writing_over_another_layout_leaves_nothing_of_it(tmp_path):
    write_adapter(tmp_path, {"name": "bottleneck"}, {"x": torch.ones(1)}, BASE)
    write_adapter(tmp_path, LORA, lora_tensors(), BASE)
    assert read_adapter(tmp_path)[0] == LORA


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "os"}}, "E-ADAPTER-UNSAFE"),
        ({"megatron_core": "evil.module"}, "E-ADAPTER-UNSAFE"),
        ({"megatron_config": {"a": 1}}, "E-ADAPTER-UNSAFE"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "E-ADAPTER-UNSAFE"),
        ({"auto_map": {"AutoModel": "x--y"}}, "E-ADAPTER-UNSAFE"),
        ({"_attn_implementation_internal": "owner/kernel"}, "E-ADAPTER-UNSAFE"),
        ({"use_dora": True}, "E-ADAPTER-WEIGHTS"),
        ({"modules_to_save": ["lm_head"]}, "E-ADAPTER-UNSUPPORTED"),
        ({"layer_replication": [[0, 1]]}, "E-ADAPTER-UNSUPPORTED"),
        ({"trainable_token_indices": [3]}, "E-ADAPTER-UNSUPPORTED"),
        ({"bias": "all"}, "E-ADAPTER-UNSUPPORTED"),
        ({"lora_bias": True}, "E-ADAPTER-UNSUPPORTED"),
        ({"target_parameters": ["w"]}, "E-ADAPTER-UNSUPPORTED"),
        ({"init_lora_weights": "pissa"}, "E-ADAPTER-UNSUPPORTED"),
        ({"some_new_option": 3}, "E-ADAPTER-UNSUPPORTED"),
        ({"peft_type": "XLORA"}, "E-ADAPTER-UNSUPPORTED"),
        ({"task_type": "SEQ_CLS"}, "E-ADAPTER-UNSUPPORTED"),
        ({"rank_pattern": {"(a+)+": 3}}, "E-ADAPTER-UNSUPPORTED"),
        ({"r": 10**6}, "E-ADAPTER-WEIGHTS"),
        ({"r": -1}, "E-ADAPTER-CONFIG"),
        ({"r": 2.5}, "E-ADAPTER-CONFIG"),
        ({"r": True}, "E-ADAPTER-CONFIG"),
        ({"lora_alpha": None}, "E-ADAPTER-CONFIG"),
    ],
)
def test_what_the_config_may_not_say_is_refused_by_name(tmp_path, change, code):
    peft_folder(tmp_path)
    edit(tmp_path, **change)
    with pytest.raises(ModelError) as caught:
        read_adapter(tmp_path)
    assert caught.value.code == code
    assert next(iter(change)) in str(caught.value) or code == "E-ADAPTER-WEIGHTS"


def test_new_keys_that_switch_nothing_on_are_accepted(tmp_path):
    peft_folder(tmp_path)
    edit(tmp_path, future_option=None, future_flag=False, future_table={}, exclude_modules=["x"])
    assert read_adapter(tmp_path)[0]["rank"] == 4


def test_a_config_edited_beside_our_record_is_refused(tmp_path):
    write_adapter(tmp_path, LORA, lora_tensors(), BASE)
    edit(tmp_path, lora_alpha=14)
    assert code_of(tmp_path) == "E-ADAPTER-CONFIG"


def test_a_tensor_outside_plain_lora_is_refused(tmp_path):
    peft_folder(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2)}, path)
    assert code_of(tmp_path) == "E-ADAPTER-UNSUPPORTED"
    half = {name: tensor for name, tensor in tensors.items() if "lora_A" in name}
    safetensors.torch.save_file(half, path)
    assert code_of(tmp_path) == "E-ADAPTER-WEIGHTS"


def test_a_planted_pickle_is_refused_and_never_read(tmp_path):
    peft_folder(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch planted'\ntR.")
    assert code_of(tmp_path) == "E-MODEL-PICKLE"
    assert not (tmp_path / "planted").exists()


def test_unusable_adapter_folders_say_what_is_wrong(tmp_path):
    assert code_of(tmp_path / "nothing") == "E-ADAPTER-MISSING"
    (tmp_path / "empty").mkdir()
    assert code_of(tmp_path / "empty") == "E-ADAPTER-MISSING"
    peft_folder(tmp_path / "cut")
    weights = tmp_path / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    assert code_of(tmp_path / "cut") == "E-MODEL-WEIGHTS"
    weights.unlink()
    assert code_of(tmp_path / "cut") == "E-ADAPTER-WEIGHTS"
    write_adapter(tmp_path / "old", LORA, lora_tensors(), BASE)
    (tmp_path / "old" / "keeptune.json").write_text('{"schema": 99}')
    assert code_of(tmp_path / "old") == "E-ADAPTER-SCHEMA"
    (tmp_path / "old" / "adapter_config.json").write_text("{")
    assert code_of(tmp_path / "old") == "E-ADAPTER-CONFIG"
