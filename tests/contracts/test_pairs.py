"""Every two methods of the shelf, as two adapters and as one hybrid: composed, or refused before any compute."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.book import base_state_dict, book_of
from keeptune.engine.rows import active
from keeptune.methods import Method, PTuning, attach, cost
from keeptune.models.load import load
from tests.contracts.test_families import REFUSED
from tests.contracts.test_methods import CLOSE, shaken, small
from tests.methods.test_templates import WORDS, folder_of
from tests.tiny_models import inputs_of, tiny_model

SHELF = Method.names()
PAIRS = list(itertools.combinations_with_replacement(SHELF, 2))
ALONE = ("head", "spottune")
"""What an adapter has one of."""
OTHERS = ["bert", "t5", "vit"]
every_pair = pytest.mark.parametrize(("one", "two"), PAIRS)
families = pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)


def made(name):
    """A small one of that name."""
    return Method.find(name)(labels=["no", "yes"]) if name == "head" else small(name)


def precise(family):
    return tiny_model(family).double()


def refused(family, *names):
    return any(name in REFUSED.get(family, ()) for name in names)


def said(model, family):
    """Logits, or the states of an image."""
    output = model(
        **{key: value.double() if value.is_floating_point() else value for key, value in inputs_of(family).items()}
    )
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def twice(one, two):
    """Both train the base's own weights, read labels, or decide: an adapter has one that does."""
    return (made(one).trains_base and made(two).trains_base) or one == two in ALONE


@families
@every_pair
def test_a_hybrid_of_two_methods_is_the_two_stacked_and_trains_both(family, one, two):
    model, methods = precise(family), [made(one), made(two)]
    names = list(model.state_dict())
    if refused(family, one, two) or twice(one, two):
        with pytest.raises(PlanError) as caught:
            attach(model, methods, "both")
        assert caught.value.fix
        assert (book_of(model), list(model.state_dict())) == (None, names)
        return
    shaken(shaken(model, methods[0], "first"), methods[1], "second", seed=2)
    with active(model, ["first", "second"]):
        wanted = said(model, family)
    hybrid = precise(family)
    attach(hybrid, methods, "both")
    hybrid.load_state_dict(base_state_dict(model), strict=False)
    values = [parameter for name in ("first", "second") for parameter in model.keeptune.adapter(name).parameters()]
    with torch.no_grad():
        for parameter, value in zip(hybrid.keeptune.parameters(), values, strict=True):
            parameter.copy_(value)
    found = said(hybrid, family)
    assert_close(found, wanted, **CLOSE)
    trained = [parameter for parameter in hybrid.parameters() if parameter.requires_grad]
    shape = ModelShape.from_config(hybrid.config.to_dict())
    assert cost(methods, shape).trainable_parameters == sum(parameter.numel() for parameter in trained)
    if any(not method.reads_only for method in methods):
        found.square().sum().backward()
    for method, part in zip(methods, hybrid.keeptune.adapter("both").parts, strict=True):
        moved = [parameter.grad.abs().sum() > 0 for parameter in part.parameters() if parameter.grad is not None]
        assert any(moved) == (not method.trains_base and not method.reads_only)


@every_pair
def test_two_adapters_serve_together_and_each_as_if_the_other_were_not_there(one, two):
    """What trains the base itself cannot be told apart from it, and a head changes nothing that is computed."""
    model, methods = precise("llama"), [made(one), made(two)]
    base = said(model, "llama")
    first = said(shaken(model, methods[0], "first"), "llama")
    shaken(model, methods[1], "second", seed=2)
    with active(model, ["first", "second"]):
        both = said(model, "llama")
    with active(model, "first"):
        assert torch.equal(said(model, "llama"), first) != methods[1].trains_base
    with active(model, None):
        assert torch.equal(said(model, "llama"), base) != any(method.trains_base for method in methods)
    assert torch.equal(both, first) == methods[1].reads_only
    assert both.isfinite().all()


@pytest.mark.parametrize(("one", "two"), [pair for pair in PAIRS if pair[0] != pair[1] or pair[0] not in ALONE])
def test_the_frozen_part_of_a_hybrid_of_two_is_active_and_has_no_gradient(one, two):
    model, methods = precise("llama"), [made(one).model_copy(update={"frozen": True}), made(two)]
    attach(model, methods, "both")
    frozen, learning = model.keeptune.adapter("both").parts
    own = set(methods[1].trained(model))
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in learning.parameters())
    assert {key for key in trained if not key.startswith("keeptune.")} == own
    shape = ModelShape.from_config(model.config.to_dict())
    assert cost(methods, shape).trainable_parameters == made(two).cost(shape).trainable_parameters


@pytest.mark.parametrize("one", ["freeze", "full"])
def test_two_that_train_the_base_are_refused_when_they_are_planned(one):
    shape = ModelShape.from_config(tiny_model("llama").config.to_dict())
    with pytest.raises(PlanError) as caught:
        cost([made(one), made("full")], shape)
    assert (caught.value.code, one in caught.value.what) == ("E-METHOD-TWICE", True)
    assert cost([made(one).model_copy(update={"frozen": True}), made("full")], shape).trainable_parameters > 0


def test_a_template_with_a_mask_and_a_head_are_two_readers(tmp_path):
    model = load(folder_of(tmp_path, "bert"), dtype="float32", device="cpu").model
    template = PTuning(template="{text} {soft:2} {mask}", verbaliser=WORDS, encoder="none")
    with pytest.raises(PlanError, match="p_tuning and head both read labels"):
        attach(model, [template, made("head")])
    assert book_of(model) is None
