"""A fingerprint knows a base by its values, whatever the dtype and whatever is attached."""

from __future__ import annotations

import torch
from torch import nn

from keeptune.models.fingerprint import fingerprint
from tests.tiny_models import tiny_model


def test_the_same_weights_in_another_dtype_have_the_same_fingerprint():
    model = tiny_model("gemma2")
    assert fingerprint(model) == fingerprint(tiny_model("gemma2").bfloat16())


def test_another_base_of_the_same_shape_has_another_fingerprint():
    assert fingerprint(tiny_model("llama")) != fingerprint(tiny_model("llama", seed=1))


def test_every_parameter_counts():
    reference = fingerprint(tiny_model("llama"))
    for name, _ in tiny_model("llama").named_parameters():
        model = tiny_model("llama")
        with torch.no_grad():
            model.get_parameter(name).add_(0.5)
        assert fingerprint(model) != reference, name


def test_shapes_count_even_when_the_values_are_the_same():
    first, second = nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)
    for linear in (first, second):
        nn.init.ones_(linear.weight)
    assert fingerprint(first) != fingerprint(second)


def test_what_keeptune_attached_does_not_count():
    model = tiny_model("llama")
    before = fingerprint(model)
    model.keeptune = nn.Linear(2, 2)
    assert fingerprint(model) == before
