"""Borrowed types against PEFT itself, each of them, in both directions."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch.testing import assert_close

from keeptune.core.errors import ModelError, PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.rows import active, off, rows
from keeptune.methods import LoRA, Peft, load_adapter, save_adapter
from keeptune.models.peft_library import ELSEWHERE, types
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))
TARGETS = ["q_proj", "v_proj", "down_proj"]
SMALL = {
    "c3a": {"block_size": 8},
    "fourierft": {"n_frequency": 50},
    "miss": {"r": 4},
    "psoft": {"r": 4},
    "road": {"group_size": 8},
    "shira": {"r": 4},
    "vblora": {"vector_length": 8, "num_vectors": 16, "topk": 2},
    "waveft": {"n_frequency": 64},
    "hira": {"r": 4},
    "vera": {"r": 8},
}
UNMERGED = ("lily", "beft")


def method(kind, targets=TARGETS):
    return Peft(type=kind, settings=SMALL.get(kind, {}), targets=targets)


def shake(parameters):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def config_of(kind, targets=TARGETS, **settings):
    cls = next(
        c for name, c in PEFT_TYPE_TO_CONFIG_MAPPING.items() if str(getattr(name, "value", name)).lower() == kind
    )
    return cls(target_modules=targets, task_type="CAUSAL_LM", **SMALL.get(kind, {}), **settings)


def every_type(test):
    test = pytest.mark.filterwarnings("ignore")(test)  # PEFT's own
    return pytest.mark.parametrize("kind", types())(test)


@every_type
def test_pefts_folder_loads_with_its_logits_and_goes_back_to_peft(tmp_path, kind):
    theirs = get_peft_model(tiny_model("llama"), config_of(kind)).eval()
    shake(theirs.parameters())
    expected = theirs(TOKENS).logits
    theirs.save_pretrained(tmp_path / "theirs")
    ours = tiny_model("llama")
    load_adapter(ours, tmp_path / "theirs", "ana")
    assert_close(ours(TOKENS).logits, expected, **CLOSE)
    assert (expected - tiny_model("llama")(TOKENS).logits).abs().max() > 1e-3
    save_adapter(ours, "ana", tmp_path / "ours")
    again = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "ours").eval()
    assert_close(again(TOKENS).logits, expected, **CLOSE)


@every_type
def test_a_borrowed_type_keeps_the_contracts_of_the_shelf(tmp_path, kind):
    """Start, count, base, reopening, training and merging; the shelf's own tests go through them with one type."""
    model, borrowed = tiny_model("llama"), method(kind)
    base = model(TOKENS).logits
    state = {key: value.clone() for key, value in model.state_dict().items()}
    borrowed.attach(model, "ana", seed=5)
    assert torch.equal(model(TOKENS).logits, base) == borrowed.identity_at_start
    trained = [p for p in model.parameters() if p.requires_grad]
    cost = borrowed.cost(ModelShape.from_config(model.config.to_dict()))
    assert cost.trainable_parameters == sum(p.numel() for p in trained)
    shake(trained)
    adapted = model(TOKENS).logits
    with off(model):
        assert torch.equal(model(TOKENS).logits, base)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    save_adapter(model, "ana", tmp_path)
    fresh = tiny_model("llama")
    load_adapter(fresh, tmp_path, "bo", trainable=True)
    assert_close(fresh(TOKENS).logits, adapted, **CLOSE)
    fresh(TOKENS, labels=TOKENS).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in fresh.keeptune.parameters())
    if kind in UNMERGED:
        with pytest.raises(PlanError) as caught:
            borrowed.merge(model, "ana")
        assert caught.value.code == "E-ADAPTER-MERGE"
        assert torch.equal(model(TOKENS).logits, adapted)
    else:
        borrowed.merge(model, "ana")
        assert_close(model(TOKENS).logits, adapted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["vera", "oft", "hira"])
def test_rows_with_different_borrowed_types_give_what_each_gives_alone(kind):
    model = tiny_model("llama")
    stacks = ["ana", "bo", None, ("ana", "bo")]
    method(kind).attach(model, "ana")
    shake(model.keeptune.parameters())
    LoRA(rank=2).attach(model, "bo")
    shake(model.keeptune.adapter("bo").parameters())
    alone = []
    for stack in stacks:
        with active(model, stack):
            alone.append(model(TOKENS[:1]).logits[0])
    with rows(model, stacks):
        together = model(TOKENS[:1].expand(4, -1)).logits
    assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-5)
    assert len({tuple(row[-1].tolist()) for row in alone}) == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["vera", "fourierft", "hira"])
def test_maps_that_store_inputs_by_outputs_work(tmp_path, kind):
    model, borrowed = tiny_model("gpt2"), method(kind, ["c_attn", "mlp.c_proj"])
    borrowed.attach(model, "ana", seed=5)
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert borrowed.cost(ModelShape.from_config(model.config.to_dict())).trainable_parameters == counted
    shake(model.parameters())
    save_adapter(model, "ana", tmp_path)
    theirs = PeftModel.from_pretrained(tiny_model("gpt2"), tmp_path).eval()
    assert_close(model(TOKENS).logits, theirs(TOKENS).logits, **CLOSE)


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_what_is_not_borrowed_is_refused_with_what_to_use(kind):
    model = tiny_model("llama")
    with pytest.raises(PlanError, match=kind) as caught:
        Peft(type=kind).attach(model)
    assert caught.value.code == "E-METHOD-PEFT"
    assert caught.value.fix.startswith("Use ")
    assert not hasattr(model, "keeptune")
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"type": "veta"}, "Did you mean 'vera'"),
        ({"type": "vera", "settings": {"rr": 3}}, "no setting 'rr'"),
        ({"type": "vera", "settings": {"target_modules": ["q_proj"]}}, "no setting 'target_modules'"),
        ({"type": "vera", "settings": {"auto_mapping": {"x": "y"}}}, "no setting 'auto_mapping'"),
        ({"type": "oft", "settings": {"bias": "all"}}, "the base itself"),
        ({"type": "c3a", "settings": {"block_size": 7}}, "block size"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_compute(settings, said):
    model = tiny_model("llama, biases, one key head, tied")
    with pytest.raises(PlanError) as caught:
        Peft(**settings).attach(model)
    assert said in str(caught.value)
    assert not hasattr(model, "keeptune")
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "XLORA"},
        {"peft_type": "NOPE"},
        {"target_modules": ".*q_proj"},
        {"layers_to_transform": [0]},
        {"modules_to_save": ["lm_head"]},
        {"new_option": 3},
        {"_secret": 1},
    ],
)
def test_a_folder_of_peft_that_says_more_is_refused_by_name(tmp_path, change):
    theirs = get_peft_model(tiny_model("llama"), config_of("vera"))
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError) as caught:
        load_adapter(tiny_model("llama"), tmp_path)
    assert caught.value.code in ("E-ADAPTER-UNSUPPORTED", "E-ADAPTER-UNSAFE")
    assert next(iter(change)) in caught.value.where["key"]
