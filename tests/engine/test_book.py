"""Names, order and what serves by default."""

from __future__ import annotations

import pytest
import torch

from keeptune.core.errors import PlanError
from keeptune.engine.book import activate, base_parameters, base_state_dict, book_of, detach
from keeptune.methods import LoRA, Prompt, attach
from tests.engine.adapted import adapted
from tests.tiny_models import tiny_model


def test_the_last_attached_adapter_serves_unless_a_stack_is_chosen():
    model = adapted()
    book = book_of(model)
    assert book.active == ("l",)
    activate(model, ["a", "l"])
    assert book.active == ("a", "l")
    detach(model, "a")
    assert book.active == ("l",)
    activate(model, None)
    assert book.active == ("l",)
    LoRA(rank=2).attach(model, "new")
    assert book.active == ("new",)
    detach(model, "new")
    assert book.active == ("l",)


@pytest.mark.parametrize("name", ["", "a.b", "../up", "-x", "x" * 65, "a b"])
def test_a_name_that_cannot_name_a_folder_is_refused(name):
    with pytest.raises(PlanError, match="cannot be the name"):
        LoRA().attach(tiny_model("llama"), name)


@pytest.mark.parametrize("name", ["train", "keys", "type", "x" * 64])
def test_names_that_python_uses_are_fair(name):
    model = tiny_model("llama")
    LoRA(rank=1).attach(model, name)
    assert book_of(model).active == (name,)


def test_a_taken_name_is_refused():
    with pytest.raises(PlanError, match="attached already"):
        LoRA().attach(adapted(), "a")


def test_only_methods_are_attached():
    with pytest.raises(PlanError) as caught:
        attach(tiny_model("llama"), ["lora"])
    assert caught.value.code == "E-METHOD-KIND"


def test_the_base_is_frozen_while_adapters_are_on_and_then_as_it_was():
    model = tiny_model("llama")
    model.model.norm.weight.requires_grad_(False)
    LoRA().attach(model, "one")
    Prompt().attach(model, "two")
    assert not any(p.requires_grad for _, p in base_parameters(model))
    detach(model, "one")
    assert not any(p.requires_grad for _, p in base_parameters(model))
    detach(model, "two")
    assert [key for key, p in model.named_parameters() if not p.requires_grad] == ["model.norm.weight"]


def test_the_base_state_dict_loads_into_a_plain_model():
    plain = tiny_model("llama", seed=9)
    plain.load_state_dict(base_state_dict(adapted()))
    tokens = torch.ones(1, 4, dtype=torch.long)
    assert torch.equal(plain(tokens).logits, tiny_model("llama")(tokens).logits)


def test_an_adapter_takes_the_mode_of_the_model():
    model = tiny_model("llama").train()
    LoRA().attach(model)
    assert all(module.training for module in model.keeptune.modules() if module is not model.keeptune)


def test_deltas_live_where_their_place_does():
    model = tiny_model("llama")
    model.model.layers[1].to("meta")
    LoRA(rank=2).attach(model)
    for key, parameter in model.keeptune.adapter("default").tensors().items():
        assert parameter.is_meta == key.startswith("model.layers.1.")
