"""Loading: good folders give the reference's logits; each bad folder has its own code, place and remedy."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from keeptune.core.errors import KeeptuneError, MachineError, PlanError
from keeptune.engine.attention import use_attention
from keeptune.models.load import load, load_pair, loaded_of
from tests.tiny_models import CONFIGS, VOCABULARY, tiny_model

TOKENS = torch.arange(3, 12)[None]


def save_tokenizer(folder, words: int = VOCABULARY) -> None:
    vocabulary = {"<|endoftext|>" if number == 1 else f"w{number}": number for number in range(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w2").save_pretrained(folder)


def save_model(folder, name: str = "llama", **settings):
    tiny_model(name).save_pretrained(folder, **settings)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "model")


def refusal(folder, **settings) -> KeeptuneError:
    with pytest.raises(KeeptuneError) as caught:
        load(folder, **{"dtype": "float32", "device": "cpu", **settings})
    assert caught.value.what
    return caught.value


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "remove"}))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loaded_model_gives_the_logits_it_was_saved_with(tmp_path, name):
    loaded = load(save_model(tmp_path, name), dtype="float32", device="cpu")
    use_attention(loaded.model)
    with torch.no_grad():
        expected, got = tiny_model(name)(TOKENS).logits, loaded.model(TOKENS).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert loaded_of(loaded.model) is loaded
    assert loaded.anatomy.family == CONFIGS[name][0]
    assert not loaded.model.training


def test_shards_are_one_model(tmp_path):
    save_model(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    with torch.no_grad():
        got = load(tmp_path, dtype="float32", device="cpu").model(TOKENS).logits
        assert torch.equal(got, tiny_model("llama")(TOKENS).logits) or torch.allclose(
            got, tiny_model("llama")(TOKENS).logits, rtol=0, atol=1e-5
        )
    next(tmp_path.glob("model-00002*")).unlink()
    error = refusal(tmp_path)
    assert error.code == "E-MODEL-WEIGHTS"
    assert "model-00002" in error.what


def test_tied_weights_stay_tied(tmp_path):
    loaded = load(save_model(tmp_path, "llama, biases, one key head, tied"), dtype="bfloat16", device="cpu")
    assert loaded.model.lm_head.weight is loaded.model.get_input_embeddings().weight
    assert loaded.dtype == loaded.model.dtype == torch.bfloat16


def test_the_bases_own_dropout_is_off_even_in_training(tmp_path):
    model = load(save_model(tmp_path, "gpt2"), dtype="float32", device="cpu").model.train()
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, model(TOKENS).logits)
    assert model.config.attn_pdrop > 0


def test_the_embedded_model_is_loaded_by_its_name():
    loaded = load("pocket", device="cpu")
    assert loaded.name == "pocket"
    assert loaded.anatomy.family == "llama"


def test_missing_folder(tmp_path):
    assert refusal(tmp_path / "nowhere").code == "E-MODEL-MISSING"
    assert refusal("nowhere").code == "E-MODEL-MISSING"


def test_a_hub_id_without_network_says_so():
    error = refusal("owner/model-that-was-never-fetched", revision="abc")
    assert error.code == "E-MODEL-MISSING"
    assert "hub id" in error.what


def test_empty_folder(tmp_path):
    assert refusal(tmp_path).code == "E-MODEL-EMPTY"


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert refusal(folder).code == "E-MODEL-CONFIG"


@pytest.mark.parametrize("content", [b"{", b"[]", "{}".encode("utf-16"), b"[" * 100_000])
def test_a_config_that_is_no_json_object(folder, content):
    (folder / "config.json").write_bytes(content)
    error = refusal(folder)
    assert error.code == "E-MODEL-CONFIG"
    assert error.where["file"] == str(folder / "config.json")


@pytest.mark.parametrize(
    "changes",
    [{"hidden_act": "no such function"}, {"num_key_value_heads": 0}, {"hidden_size": "wide"}, {"vocab_size": -1}],
)
def test_a_config_with_impossible_values(folder, changes):
    edit_config(folder, **changes)
    assert refusal(folder).code == "E-MODEL-CONFIG"


def test_rotary_settings_that_transformers_would_lose_are_noticed(folder, monkeypatch):
    read = AutoConfig.for_model

    def forgetful(**settings):
        config = read(**settings)
        config.rope_parameters = {**config.rope_parameters, "rope_theta": 1.0}
        return config

    monkeypatch.setattr(AutoConfig, "for_model", forgetful)
    error = refusal(folder)
    assert error.code == "E-MODEL-ROPE"
    assert "rope_theta" in error.what


def test_no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert refusal(folder).code == "E-MODEL-TOKENIZER"


def test_a_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    assert refusal(folder).code == "E-MODEL-TOKENIZER"


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert refusal(folder).code == "E-MODEL-WEIGHTS"
    (folder / "model.gguf").write_bytes(b"GGUF")
    assert ".gguf" in refusal(folder).what


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl"])
def test_pickles_are_refused_and_never_read(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch planted'\ntR.")
    assert refusal(folder).code == "E-MODEL-PICKLE"
    assert not (folder / "planted").exists()


def test_a_cut_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    error = refusal(folder)
    assert error.code == "E-MODEL-WEIGHTS"
    assert error.where["file"] == str(path)


def change_tensors(folder, change) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "missing: model.layers.1.mlp.up_proj.weight"),
        (lambda t: t.update({"model.layers.0.extra": torch.ones(1)}), "not part of this architecture: model.layers.0"),
        (lambda t: t.update({"model.norm.weight": torch.ones(7)}), "another shape .*: model.norm.weight"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_named(folder, change, words):
    change_tensors(folder, change)
    error = refusal(folder)
    assert error.code == "E-MODEL-WEIGHTS"
    with pytest.raises(KeeptuneError, match=words):
        raise error


def test_a_tokenizer_larger_than_the_embedding(folder):
    save_tokenizer(folder, VOCABULARY + 1)
    error = refusal(folder)
    assert error.code == "E-MODEL-VOCABULARY"
    assert str(VOCABULARY) in error.what


def test_an_adapter_folder_is_told_apart(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert refusal(folder).code == "E-MODEL-ADAPTER"


def test_other_families_and_experts_are_refused_before_their_weights_are_read(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    edit_config(folder, model_type="bloom")
    assert refusal(folder).code == "E-MODEL-FAMILY"
    edit_config(folder, model_type="mixtral")
    assert refusal(folder).code in ("E-MODEL-MOE", "E-MODEL-FAMILY")


def test_quantised_weights_are_refused(folder):
    edit_config(folder, quantization_config={"quant_method": "gptq"})
    assert refusal(folder).code == "E-MODEL-QUANTIZED"


def test_keys_that_could_run_code_are_dropped(folder):
    planted = folder / "planted.py"
    planted.write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    edit_config(
        folder,
        auto_map={"AutoConfig": "planted.Planted", "AutoModelForCausalLM": "planted.Planted"},
        custom_pipelines={"x": {"impl": "planted.Planted"}},
        _attn_implementation_internal="owner/kernel",
        attn_implementation="owner/kernel",
    )
    loaded = load(folder, device="cpu")
    assert not (folder / "ran").exists()
    assert not hasattr(loaded.model.config, "auto_map")
    assert loaded.model.config._attn_implementation in ("sdpa", "eager")


def test_devices_and_dtypes_that_do_not_exist(folder):
    error = refusal(folder, device="cuda:99")
    assert isinstance(error, MachineError)
    assert "cpu" in error.fix
    assert refusal(folder, dtype="float17").code == "E-MODEL-DTYPE"


def test_a_foreign_model_was_not_loaded_by_us():
    with pytest.raises(PlanError, match="not loaded by keeptune"):
        loaded_of(tiny_model("llama"))


def test_two_loads_of_a_moved_folder_have_one_fingerprint(folder, tmp_path):
    first = load(folder, dtype="float32", device="cpu").fingerprint
    shutil.move(folder, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere", dtype="bfloat16", device="cpu").fingerprint == first


def test_the_public_load_gives_the_model_and_its_tokenizer(folder):
    model, tokenizer = load_pair(folder, dtype="float32", device="cpu")
    assert loaded_of(model).tokenizer is tokenizer
