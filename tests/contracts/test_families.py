"""The promises of every method on encoders, encoder-decoders and ViT: each works there, or is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.attention import use_attention
from keeptune.engine.book import detach
from keeptune.engine.rows import active, off, rows
from keeptune.methods import LoRA, Method, load_adapter, save_adapter
from keeptune.models.anatomy import anatomy_of
from tests.contracts.test_methods import shaken, small
from tests.tiny_models import ENCODERS, OTHERS, SEQ2SEQ, inputs_of, tiny_model

NAMES = [name for name in Method.names() if not Method.find(name).reads_only]
QUICK = ["bert", "t5", "vit"]
"""One of each kind; the other families run in `make test-all`."""

REFUSED = {family: {"spottune"} if family in SEQ2SEQ else set() for family in OTHERS}
"""Methods that cannot work on a family; SpotTune makes one decision for a row, which is computed in one part."""
REFUSED["deberta-v2"] |= {"spottune", "prefix", "p_tuning_v2", "mam"}
REFUSED["vit"] |= {"prompt", "p_tuning"}

DISTANCES = {"lora", "dora", "adalora", "ia3", "bitfit", "peft"}
"""Methods that change DeBERTa's maps of queries and keys, which its rows share."""

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def cases(*, detachable=False):
    for family in OTHERS:
        for name in NAMES:
            if name in REFUSED.get(family, ()) or (detachable and not Method.find(name).detachable):
                continue
            yield pytest.param(family, name, marks=() if family in QUICK else pytest.mark.slow)


every = pytest.mark.parametrize(("family", "name"), list(cases()))
every_detachable = pytest.mark.parametrize(("family", "name"), list(cases(detachable=True)))


def double(family):
    """In float64, where a rounding of the processor's own cannot pass for a fault."""
    model = tiny_model(family).double()
    if family in ENCODERS and not anatomy_of(model).registry:
        return model
    use_attention(model)
    return model


def outcome(model, family, **settings):
    """What the model returns for text or images: logits, or the hidden states of a bare body."""
    wide = next(model.parameters()).dtype
    inputs = {
        key: value.to(wide) if value.is_floating_point() else value
        for key, value in inputs_of(family, **settings).items()
    }
    output = model(**inputs)
    return output.logits if "logits" in output else output.last_hidden_state


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, names in REFUSED.items() for name in sorted(names)]
)
def test_a_method_that_cannot_work_on_a_family_is_refused_by_name(family, name):
    model = tiny_model(family)
    refused = [lambda: small(name).attach(model)]
    if name != "spottune":  # its cost is arithmetic on any shape
        refused.append(lambda: small(name).cost(ModelShape.from_config(model.config.to_dict())))
    for attempt in refused:
        with pytest.raises(PlanError) as caught:
            attempt()
        assert caught.value.code == "E-METHOD-FAMILY"
        assert caught.value.fix
    assert not hasattr(model, "keeptune")


@every
def test_identity_at_the_start_cost_and_what_trains(family, name):
    model, method = tiny_model(family), small(name)
    before = outcome(model, family)
    method.attach(model)
    assert torch.equal(outcome(model, family), before) == method.identity_at_start
    cost = method.cost(ModelShape.from_config(model.config.to_dict()))
    assert cost.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    outcome(model, family).square().sum().backward()
    assert all(p.grad is not None for key, p in model.named_parameters() if key.startswith("keeptune."))


@every_detachable
def test_taking_it_off_leaves_the_base_bitwise_and_no_trace(family, name):
    model = tiny_model(family)
    before, modules = outcome(model, family), dict(model.named_modules())
    shaken(model, small(name))
    assert not torch.equal(outcome(model, family), before)
    with off(model):
        assert torch.equal(outcome(model, family), before)
    detach(model, "one")
    assert torch.equal(outcome(model, family), before)
    assert dict(model.named_modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@every_detachable
def test_a_saved_adapter_gives_the_same_outputs_on_another_copy(family, name, tmp_path):
    model = shaken(tiny_model(family), small(name))
    save_adapter(model, "one", tmp_path)
    fresh = tiny_model(family)
    load_adapter(fresh, tmp_path, "again", trainable=True)
    assert torch.equal(outcome(fresh, family), outcome(model, family))
    outcome(fresh, family).square().sum().backward()
    assert all(p.grad is not None for p in fresh.keeptune.parameters())


def has_biases(model):
    """Whether every linear map has a bias; the config of T5 has no key for adding some."""
    return all(model.get_submodule(path).bias is not None for path in anatomy_of(model).linear_paths())


@every
def test_merging_changes_no_output_or_is_refused(family, name):
    model, method = shaken(tiny_model(family).double(), small(name)), small(name)
    before = outcome(model, family)
    if not method.mergeable or (name == "bitfit" and not has_biases(model)):
        with pytest.raises(PlanError) as caught:
            method.merge(model, "one")
        assert caught.value.code == "E-ADAPTER-MERGE"
        assert torch.equal(outcome(model, family), before)
        return
    method.merge(model, "one")
    assert_close(outcome(model, family), before, rtol=1e-4, atol=1e-4)


@every_detachable
def test_rows_with_different_adapters_give_what_each_gives_alone(family, name):
    model = shaken(double(family), small(name), "ana")
    shaken(model, LoRA(rank=2, targets=["v", "o", "down"] if family == "deberta-v2" else "all"), "bo", seed=2)
    stacks = ["ana", "bo", None, ("bo", "ana")]
    wide = {
        key: value.double() if value.is_floating_point() else value for key, value in inputs_of(family, batch=4).items()
    }
    alone = []
    for row, stack in enumerate(stacks):
        with active(model, stack):
            output = model(**{key: value[row : row + 1] for key, value in wide.items()})
            alone.append(output.logits[0] if "logits" in output else output.last_hidden_state[0])
    with rows(model, stacks):
        if family == "deberta-v2" and name in DISTANCES:
            with pytest.raises(PlanError) as caught:
                outcome(model, family, batch=4)
            assert caught.value.code == "E-ROWS-FAMILY"
            return
        together = outcome(model, family, batch=4)
    assert_close(together, torch.stack(alone), **CLOSE)


@every
def test_checkpointing_leaves_the_gradients_as_they_are(family, name):
    found = []
    for checkpointing in (False, True):
        model = shaken(tiny_model(family).double(), small(name))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(3)
        outcome(model, family).square().sum().backward()
        found.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        assert_close(gradient, found[1][key], rtol=1e-4, atol=1e-5)
