"""Prefix tuning against PEFT, against the words that it starts from, and against the published counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from pydantic import ValidationError
from torch.testing import assert_close

from keeptune.core.errors import ModelError, PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.book import detach
from keeptune.engine.prefixes import KeysValues
from keeptune.engine.rows import off
from keeptune.methods import Prefix, attach, load_adapter, save_adapter
from keeptune.models.anatomy import anatomy_of
from tests.tiny_models import CONFIGS, VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
WORDS = [20, 21, 22, 40]
FIXED_ROPE = [name for name in CONFIGS if name not in ("llama, dynamic rope", "phi3, longrope, window")]


class Words:
    """A tokenizer of one text."""

    all_special_ids = (0, 1, 2)

    def __call__(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return {"input_ids": WORDS if text == "four words of it" else []}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The tokenizer, for models that were not loaded from a folder."""
    monkeypatch.setattr("keeptune.models.load.loaded_of", lambda model: SimpleNamespace(tokenizer=Words()))


def tokens(rows=2, width=5):
    return torch.randint(3, VOCABULARY, (rows, width), generator=torch.Generator().manual_seed(5))


def right_padded():
    mask = (torch.arange(7) < torch.tensor([[4], [7], [2]])).long()
    return {"input_ids": tokens(3, 7) * mask, "attention_mask": mask}


def shaken(model, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3", "phi3"])
def test_a_folder_of_peft_loads_with_its_logits_and_ours_loads_in_peft(tmp_path, family, projection):
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=projection, encoder_hidden_size=16
    )
    changes = {"num_key_value_heads": 4} if family == "gpt_neox" else {}  # PEFT believes this key of any config
    theirs = get_peft_model(tiny_model(family, **changes), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    batch = right_padded()
    expected, mask = theirs(**batch).logits, batch["attention_mask"].bool()
    ours = tiny_model(family, **changes)
    load_adapter(ours, tmp_path / "theirs", "ana", trainable=True)
    found = ours(**batch).logits
    assert_close(found[mask], expected[mask], **CLOSE)
    assert (found - tiny_model(family)(**batch).logits)[mask].abs().max() > 0.1
    shaken(ours)
    save_adapter(ours, "ana", tmp_path / "ours")
    again = PeftModel.from_pretrained(tiny_model(family, **changes), tmp_path / "ours").eval()
    assert_close(again(**batch).logits[mask], ours(**batch).logits[mask], **CLOSE)


def test_a_trained_network_is_dropped_and_peft_reads_what_it_made(tmp_path):
    ours = tiny_model("llama")
    Prefix(length=4, hidden=8).attach(ours, "ana")
    shaken(ours)
    save_adapter(ours, "ana", tmp_path)
    theirs = PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    assert_close(theirs(tokens()).logits, ours(tokens()).logits, **CLOSE)
    fresh = tiny_model("llama")
    load_adapter(fresh, tmp_path, "ana")
    assert torch.equal(fresh(tokens()).logits, ours(tokens()).logits)
    assert sum(p.numel() for p in fresh.keeptune.parameters()) == 2 * 2 * 4 * 2 * 8
    assert fresh.keeptune.adapter("ana").methods[0].hidden is None


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"positions": "none"}),
        ("llama", {"layers": [1]}),
        ("llama", {"gate": True}),
        ("mistral, window", {}),
    ],
)
def test_what_peft_cannot_say_is_kept_in_files_of_our_own(tmp_path, family, settings):
    ours = tiny_model(family)
    Prefix(length=3, hidden=8, **settings).attach(ours, "ana")
    shaken(ours)
    save_adapter(ours, "ana", tmp_path)
    assert (tmp_path / "adapter.json").exists()
    assert not (tmp_path / "adapter_config.json").exists()
    fresh = tiny_model(family)
    load_adapter(fresh, tmp_path, "ana")
    assert torch.equal(fresh(tokens()).logits, ours(tokens()).logits)


def test_a_prefix_that_peft_trained_behind_a_window_is_refused(tmp_path):
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    get_peft_model(tiny_model("mistral, window"), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="window of 5") as caught:
        load_adapter(tiny_model("mistral, window"), tmp_path)
    assert caught.value.code == "E-ADAPTER-UNSUPPORTED"


@pytest.mark.parametrize("hidden", [None, 8])
@pytest.mark.parametrize("family", FIXED_ROPE)
def test_a_prefix_that_starts_as_words_is_the_words_before_the_text(family, hidden):
    """Five positions of words and text at most: beyond, a window would hide the words, but never the prefix."""
    model, text = tiny_model(family), tokens(2, 1)
    with torch.no_grad():
        written = model(torch.cat([torch.tensor([WORDS] * 2), text], dim=1)).logits[:, len(WORDS) :]
        Prefix(length=len(WORDS), hidden=hidden, init="text", text="four words of it").attach(model)
        assert_close(model(text).logits, written, **CLOSE)


def test_a_short_text_is_filled_up_and_a_long_one_cut():
    starts = {}
    for length in (2, 4, 6):
        model = tiny_model("llama")
        Prefix(length=length, hidden=None, init="text", text="four words of it").attach(model)
        starts[length] = model.keeptune.adapter("default").tensors()["1.prefix_keys"]
    assert_close(starts[2], starts[4][:2])
    assert_close(starts[6][:4], starts[4])
    assert starts[6].shape[0] == 6


def test_words_start_alike_whatever_else_is_attached():
    starts = []
    for others in (False, True):
        model = tiny_model("llama").train()
        if others:
            Prefix(length=2).attach(model, "other")
        Prefix(length=3, hidden=None, init="vocabulary").attach(model, "ana", seed=4)
        starts.append(model.keeptune.adapter("ana").tensors()["1.prefix_values"])
        assert model.training
    assert torch.equal(*starts)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_words_are_read_off_a_model_of_16_bits_without_changing_what_it_computes(family):
    """The hooks that look at keys and values leave them as they are."""
    model = tiny_model(family).to(torch.bfloat16)
    kinds = {torch.bfloat16} if family == "bert" else {torch.bfloat16, torch.float32}
    seen = set()
    handles = [
        module.register_forward_hook(lambda module, args, output: seen.add((output.dtype, output.ndim)))
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    Prefix(length=3, hidden=None, init="vocabulary").attach(model, "ana", seed=4)
    for handle in handles:
        handle.remove()
    assert {dtype for dtype, _ in seen} <= kinds
    assert {ndim for _, ndim in seen} == {3}
    assert all(tensor.dtype == torch.float32 for tensor in model.keeptune.adapter("ana").tensors().values())


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_words_of_a_decoder_are_what_transformers_puts_into_its_caches(family):
    """Of text and cross attention; those of the encoder are held against its states below."""
    model = tiny_model(family)
    Prefix(length=len(WORDS), hidden=None, init="text", text="four words of it").attach(model)
    with off(model):
        ids = torch.tensor([WORDS])
        cache = model(input_ids=ids, decoder_input_ids=ids, use_cache=True).past_key_values
    layers = [layer for layer in anatomy_of(model).layers if layer.cross_attends]
    for number, layer in enumerate(layers):
        for path, side in (
            (layer.attends, cache.self_attention_cache),
            (layer.cross_attends, cache.cross_attention_cache),
        ):
            keys, values = started(model)[path]
            assert_close(keys, side.layers[number].keys[0].transpose(0, 1), **CLOSE)
            assert_close(values, side.layers[number].values[0].transpose(0, 1), **CLOSE)


@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "bart"])
def test_the_words_of_an_encoder_are_its_maps_of_each_layers_states(family):
    model = tiny_model(family)
    Prefix(length=len(WORDS), hidden=None, init="text", text="four words of it").attach(model)
    with off(model):
        encoder = model.get_encoder() if family in ("t5", "bart") else model.base_model
        states = encoder(torch.tensor([WORDS]), output_hidden_states=True).hidden_states
    layers = [layer for layer in anatomy_of(model).layers if not layer.cross_attends]
    for number, layer in enumerate(layers):
        state = states[number][0]
        if family == "t5":
            state = model.encoder.block[number].layer[0].layer_norm(state)
        for role, found in zip("kv", started(model)[layer.attends], strict=True):
            expected = model.get_submodule(layer.linear[role])(state)
            assert_close(found.flatten(1), expected, **CLOSE)


def started(model):
    """By path: keys and values that a prefix has."""
    placed = model.keeptune.adapter("default").placed[0]
    return {place.path: delta.keys_values() for place, delta, _ in placed if isinstance(place, KeysValues)}


@pytest.mark.parametrize("family", ["vit", "modernbert"])
def test_words_whose_keys_cannot_be_read_off_are_refused_before_any_compute(family):
    model = tiny_model(family)
    with pytest.raises(PlanError, match=family) as caught:
        Prefix(length=3, init="vocabulary").attach(model)
    assert caught.value.code == "E-METHOD-FAMILY"
    assert caught.value.where["key"] == "init"
    assert not hasattr(model, "keeptune")


def test_words_without_tokens_are_refused():
    with pytest.raises(PlanError, match="nothing") as caught:
        Prefix(init="text", text="nothing").attach(tiny_model("llama"))
    assert caught.value.code == "E-METHOD-INIT"


@pytest.mark.parametrize("init", ["random", "vocabulary"])
def test_a_gated_prefix_starts_as_the_base_and_learns(init):
    for family in ("llama", "gpt2", "gemma2"):
        model = tiny_model(family)
        before = model(tokens()).logits
        Prefix(length=3, hidden=8, init=init, gate=True).attach(model)
        assert_close(model(tokens()).logits, before, **CLOSE)
        model(tokens(), labels=tokens()).loss.backward()
        gates = [p for key, p in model.keeptune.named_parameters() if key.endswith("prefix_gate")]
        assert all(gate.grad.abs().sum() > 0 for gate in gates)


def test_a_gate_adds_the_prefixs_own_softmax():
    model, plain = tiny_model("gpt2", num_hidden_layers=1), tiny_model("gpt2", num_hidden_layers=1)
    Prefix(length=3, hidden=None, gate=True, layers=[0]).attach(model)
    shaken(model)
    seen = {}
    for key, source in (("ours", model), ("plain", plain)):
        attention = source.transformer.h[0].attn
        attention.c_proj.register_forward_pre_hook(lambda module, args, key=key: seen.update({key: args[0]}))
    plain.transformer.h[0].attn.c_attn.register_forward_hook(lambda module, args, output: seen.update(q=output))
    with torch.no_grad():
        model(tokens())
        plain(tokens())
    tensors = model.keeptune.adapter("default").tensors()
    query = seen["q"][..., :32].view(2, 5, 4, 8)
    for head in range(4):
        weights = (query[:, :, head] @ tensors["0.prefix_keys"][:, head].T / 8**0.5).softmax(-1)
        change = tensors["0.prefix_gate"][head].tanh() * weights @ tensors["0.prefix_values"][:, head]
        found = (seen["ours"] - seen["plain"]).view(2, 5, 4, 8)[:, :, head]
        assert_close(found, change, **CLOSE)


def test_dropout_acts_in_training_only_and_no_file_sees_it(tmp_path):
    model = tiny_model("llama")
    Prefix(length=3, hidden=8, dropout=0.5).attach(model, "ana")
    assert torch.equal(model(tokens()).logits, model(tokens()).logits)
    expected = model(tokens()).logits
    model.train()
    assert not torch.equal(model(tokens()).logits, model(tokens()).logits)
    save_adapter(model, "ana", tmp_path)
    detach(model, "ana")
    load_adapter(model.eval(), tmp_path, "ana")
    assert torch.equal(model(tokens()).logits, expected)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize(
    "settings", [{"hidden": None}, {"hidden": 8, "gate": True, "layers": [1]}, {"positions": "none"}]
)
def test_the_cost_follows_the_settings(family, settings):
    model, method = tiny_model(family), Prefix(length=3, **settings)
    method.attach(model)
    cost = method.cost(ModelShape.from_config(model.config.to_dict()))
    assert cost.trainable_parameters == sum(p.numel() for p in model.keeptune.parameters())
    assert cost.stored_bytes == sum(4 * t.numel() for t in model.keeptune.adapter("default").tensors().values())


def test_the_counts_are_the_published_ones():
    """GPT-2 medium, p = 10, m = 512: 25,750,016 trained and 491,520 kept; Llama-3-8B, p = 30: 1.97 million kept."""
    medium = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 1024, "n_layer": 24, "n_head": 16}
    cost = Prefix(length=10, hidden=512).cost(ModelShape.from_config(medium))
    assert cost[:2] == (25_750_016, 4 * 491_520)
    llama = {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    }  # fmt: skip
    assert Prefix(length=30, hidden=None).cost(ModelShape.from_config(llama)).trainable_parameters == 1_966_080


@pytest.mark.parametrize(
    ("family", "settings", "code"),
    [
        ("llama, dynamic rope", {}, "E-MODEL-ROPE"),
        ("phi3, longrope, window", {}, "E-MODEL-ROPE"),
        ("gpt2", {"length": 64}, "E-METHOD-LENGTH"),
        ("llama", {"layers": [2]}, "E-METHOD-LAYER"),
    ],
)
def test_what_cannot_work_is_refused_by_name_before_any_compute(family, settings, code):
    model = tiny_model(family)
    with pytest.raises(PlanError) as caught:
        attach(model, Prefix(hidden=4, **settings))
    assert caught.value.code == code
    assert not hasattr(model, "keeptune")


def test_without_moved_positions_every_rope_works():
    for family in ("llama, dynamic rope", "phi3, longrope, window"):
        model = tiny_model(family)
        before = model(tokens()).logits
        Prefix(length=3, positions="none").attach(model)
        assert not torch.allclose(model(tokens()).logits, before, atol=1e-2)


@pytest.mark.parametrize("settings", [{"init": "text"}, {"text": "a"}, {"gate": True, "positions": "shift"}])
def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(ValidationError):
        Prefix(**settings)
