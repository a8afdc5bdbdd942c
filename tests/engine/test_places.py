"""The seam that later methods need: other places, deltas and compositions are new classes, no edits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.engine.adapter import Adapter
from keeptune.engine.book import detach, install
from keeptune.engine.compositions import Gate, Scale, multiply, replace
from keeptune.engine.deltas import Delta
from keeptune.engine.places import ModuleInput, ModuleOutput, Placed
from keeptune.engine.rows import active, gated, off, rows
from tests.engine.adapted import CLOSE
from tests.tiny_models import VOCABULARY, tiny_model

TOKENS = torch.randint(3, VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(5))


class Constant(Delta):
    """A vector that looks at nothing: a bias, or the scale of (IA)^3."""

    def __init__(self, width, seed=0):
        super().__init__()
        self.value = nn.Parameter(torch.randn(width, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x, h, selection):
        return self.value


class Bottleneck(Delta):
    """up relu(down h)."""

    def __init__(self, width, reads="h"):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.reads = reads
        self.down = nn.Parameter(torch.randn(4, width, generator=generator))
        self.up = nn.Parameter(torch.randn(width, 4, generator=generator))

    def forward(self, x, h, selection):
        read = x if self.reads == "x" else h
        return torch.relu(read @ self.down.T) @ self.up.T


def put(model, name, *placed):
    install(model, Adapter(name, [], [placed], True))
    return model


def test_a_constant_added_to_a_linear_map_is_a_bias():
    model = put(tiny_model("llama"), "one", Placed(ModuleOutput("model.layers.0.self_attn.q_proj"), Constant(32)))
    by_hand = tiny_model("llama")
    by_hand.model.layers[0].self_attn.q_proj.bias = nn.Parameter(Constant(32).value.detach())
    assert_close(model(TOKENS).logits, by_hand(TOKENS).logits, **CLOSE)


def test_a_constant_multiplied_with_a_linear_map_scales_its_rows():
    place = ModuleOutput("model.layers.0.self_attn.k_proj")
    model = put(tiny_model("llama"), "one", Placed(place, Constant(16), multiply))
    by_hand = tiny_model("llama")
    by_hand.model.layers[0].self_attn.k_proj.weight.data *= Constant(16).value[:, None]
    assert_close(model(TOKENS).logits, by_hand(TOKENS).logits, **CLOSE)


def test_a_constant_at_an_input_scales_the_columns_behind_it():
    place = ModuleInput("model.layers.1.mlp.down_proj")
    model = put(tiny_model("llama"), "one", Placed(place, Constant(48), multiply))
    by_hand = tiny_model("llama")
    by_hand.model.layers[1].mlp.down_proj.weight.data *= Constant(48).value
    assert_close(model(TOKENS).logits, by_hand(TOKENS).logits, **CLOSE)


@pytest.mark.parametrize("reads", ["x", "h"])
@pytest.mark.parametrize("sublayer", ["self_attn", "mlp"])
def test_a_bottleneck_stands_behind_or_beside_a_sublayer(sublayer, reads):
    place = ModuleOutput(f"model.layers.0.{sublayer}")
    delta = Bottleneck(32, reads)
    model = put(tiny_model("llama"), "one", Placed(place, delta, Scale(4.0)))
    by_hand = tiny_model("llama")
    module = by_hand.model.layers[0].get_submodule(sublayer)
    inner = module.forward

    def forward(*args, **kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        output = inner(*args, **kwargs)
        h, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        h = h + 4.0 * delta(x, h, None)
        return h if rest is None else (h, *rest)

    module.forward = forward
    assert_close(model(TOKENS).logits, by_hand(TOKENS).logits, **CLOSE)


def test_a_norm_can_be_replaced():
    class Trained(Delta):
        def forward(self, x, h, selection):
            return torch.nn.functional.rms_norm(x, (32,)) * 2

    model = put(tiny_model("llama"), "one", Placed(ModuleOutput("model.norm"), Trained(), replace))
    by_hand = tiny_model("llama")
    by_hand.model.norm = nn.RMSNorm(32, eps=torch.finfo(torch.float32).eps)
    by_hand.model.norm.weight.data.fill_(2)
    assert_close(model(TOKENS).logits, by_hand(TOKENS).logits, **CLOSE)


def test_a_gate_per_row_and_layer_switches_each_rows_delta():
    placed = [Placed(ModuleOutput(f"model.layers.{layer}", layer), Bottleneck(32), Gate(layer)) for layer in range(2)]
    model = put(tiny_model("llama"), "one", *placed)
    whole = model(TOKENS).logits
    with off(model):
        base = model(TOKENS).logits
    first = put(tiny_model("llama"), "one", placed[0])(TOKENS).logits
    gates = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    with gated(model, {"one": gates}):
        logits = model(TOKENS).logits
    assert_close(logits, torch.stack([whole[0], base[1], first[2]]), **CLOSE)
    logits.sum().backward()
    assert gates.grad.abs().min() > 0
    with rows(model, ["one", None, "one"]), gated(model, {"one": gates}):
        assert_close(model(TOKENS).logits, logits, **CLOSE)


def test_the_order_of_a_stack_is_the_order_of_its_deltas():
    place = ModuleOutput("model.layers.0.mlp")
    model = put(tiny_model("llama"), "shift", Placed(place, Constant(32)))
    put(model, "scale", Placed(place, Constant(32, seed=1), multiply))
    with active(model, ["shift", "scale"]):
        one = model(TOKENS).logits
    with active(model, ["scale", "shift"]):
        other = model(TOKENS).logits
    assert not torch.allclose(one, other)
    with rows(model, [("shift", "scale"), ("scale", "shift"), None]):
        mixed = model(TOKENS).logits
    assert_close(mixed[0], one[0], **CLOSE)
    assert_close(mixed[1], other[1], **CLOSE)


def test_a_place_loses_its_hook_with_its_last_delta():
    place = ModuleOutput("model.layers.0.mlp")
    model = put(tiny_model("llama"), "one", Placed(place, Constant(32)))
    put(model, "two", Placed(place, Constant(32, seed=1)))
    module = model.get_submodule(place.path)
    detach(model, "one")
    assert len(module._forward_hooks) == 1
    detach(model, "two")
    assert not module._forward_hooks


def test_low_rank_updates_do_not_merge_past_a_delta_that_does_more_than_add():
    from keeptune.methods import LoRA

    model = tiny_model("llama")
    LoRA(targets=["q"]).attach(model, "one")
    put(model, "two", Placed(ModuleOutput("model.layers.0.self_attn.q_proj"), Constant(32), multiply))
    with pytest.raises(PlanError, match="does more than add"):
        LoRA().merge(model, "one")
