"""The fused body against the model's own modules: hidden states and gradients, for every family that it knows."""

from __future__ import annotations

import pytest
import torch

from keeptune.engine import packed
from keeptune.engine.batch import pack
from keeptune.engine.book import detach
from keeptune.engine.packed import packed_hidden, packed_states
from keeptune.engine.rows import active
from keeptune.methods import LoRA, attach
from tests.engine.adapted import moved
from tests.engine.test_packed import LENGTHS, rows_of
from tests.flop_count import FlopCount
from tests.tiny_models import CONFIGS, tiny_model

TOLERANCE = 1e-5
FUSED = [name for name in CONFIGS if name.split(",")[0] in ("llama", "mistral", "qwen2", "qwen3")]
STACKS = ["one", None, ("one", "two"), "two", None, "one", ("two", "one"), "one"]


def adapted(name, *, dropout=0.0, targets="all", stack=("one",), **changes):
    """A model with the LoRA `one`, and `two` where the stack names it; both move the output.

    Weights have a standard deviation of 0.1, so that float32 rounds to a good deal less than the tolerance.
    """
    model = tiny_model(name, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 / 3 if parameter.ndim > 1 else 1)
    for number, adapter in enumerate(stack):
        LoRA(rank=2 + number, dropout=dropout, targets=targets).attach(model, adapter)
    moved(model)
    return model


def run(model, batch, monkeypatch, *, fused):
    """Hidden states and the gradients of the trainable parameters, through the fused body or the modules."""
    with monkeypatch.context() as patch:
        if not fused:
            patch.setattr(packed, "obstacle", lambda *_: "asked for")
        model.zero_grad()
        torch.manual_seed(11)
        hidden = packed_hidden(model, batch)
        slope = torch.linspace(-1, 1, hidden.numel()).view_as(hidden)
        (hidden * slope).sum().backward()
    assert model.body_path == ("fused" if fused else "modules: asked for")
    return hidden.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_equal(got, expected):
    torch.testing.assert_close(got[0], expected[0], rtol=TOLERANCE, atol=TOLERANCE)
    assert got[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(got[1][name], gradient, rtol=0, atol=TOLERANCE * scale, msg=lambda t, n=name: n + t)


def carrying(method, **settings):
    import keeptune.methods

    model = tiny_model("llama")
    attach(model, getattr(keeptune.methods, method)(**settings), "one")
    moved(model)
    return model


def hooked():
    model = tiny_model("llama").requires_grad_(False)
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: output * 2)
    return model


def replaced():
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = tiny_model("llama").requires_grad_(False)
    model.model.layers[0].mlp.up_proj.__class__ = Doubled
    return model


def mixed():
    model = tiny_model("llama").requires_grad_(False)
    model.model.norm.to(torch.float64)
    return model


@pytest.mark.parametrize("name", FUSED)
def test_hidden_states_and_gradients_are_those_of_the_modules(name, monkeypatch):
    model, batch = adapted(name), pack(rows_of(LENGTHS))
    assert_equal(run(model, batch, monkeypatch, fused=True), run(model, batch, monkeypatch, fused=False))


@pytest.mark.parametrize("stack", [("one", "two"), "one", ("two",)])
def test_a_stack_is_the_sum_of_its_updates(stack, monkeypatch):
    model, batch = adapted("llama", stack=("one", "two")), pack(rows_of(LENGTHS))
    with active(model, stack):
        assert_equal(run(model, batch, monkeypatch, fused=True), run(model, batch, monkeypatch, fused=False))


def test_rows_with_adapters_of_their_own_are_fused_and_equal(monkeypatch):
    model, batch = adapted("llama", stack=("one", "two")), pack(rows_of(LENGTHS), adapters=STACKS)
    assert_equal(run(model, batch, monkeypatch, fused=True), run(model, batch, monkeypatch, fused=False))


def test_dropout_falls_as_in_the_modules(monkeypatch):
    model, batch = adapted("llama", dropout=0.3).train(), pack(rows_of(LENGTHS))
    assert_equal(run(model, batch, monkeypatch, fused=True), run(model, batch, monkeypatch, fused=False))


def test_a_frozen_adapter_below_a_trained_one_acts_and_stays(monkeypatch):
    model = adapted("llama")
    model.keeptune.adapter("one").parts.requires_grad_(False)
    LoRA(rank=3).attach(model, "two")
    with torch.no_grad():
        model.keeptune.adapter("two").parts.apply(lambda m: [p.normal_(0, 0.2) for p in m.parameters(recurse=False)])
    batch = pack(rows_of(LENGTHS), adapters=[("one", "two")] * len(LENGTHS))
    got = run(model, batch, monkeypatch, fused=True)
    assert all("adapter-two" in name for name in got[1])
    assert_equal(got, run(model, batch, monkeypatch, fused=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_checkpointed_layers_give_the_same_gradients_bitwise(dtype, monkeypatch):
    model, batch = adapted("llama", dropout=0.3).to(dtype).train(), pack(rows_of(LENGTHS))
    plain = run(model, batch, monkeypatch, fused=True)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = run(model, batch, monkeypatch, fused=True)
    assert torch.equal(plain[0], again[0])
    assert all(torch.equal(plain[1][name], again[1][name]) for name in plain[1])


def test_rows_of_their_own_survive_a_checkpoint(monkeypatch):
    model, batch = adapted("llama", stack=("one", "two")).train(), pack(rows_of(LENGTHS), adapters=STACKS)
    plain = run(model, batch, monkeypatch, fused=True)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = run(model, batch, monkeypatch, fused=True)
    assert all(torch.equal(plain[1][name], again[1][name]) for name in plain[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUSED)
def test_without_adapters_it_is_the_base_bitwise(name, dtype, monkeypatch):
    model, batch = tiny_model(name).to(dtype), pack(rows_of(LENGTHS))
    with torch.no_grad():
        fused = packed_hidden(model.requires_grad_(False), batch)
        assert model.body_path == "fused"
        monkeypatch.setattr(packed, "obstacle", lambda *_: "asked for")
        assert torch.equal(fused, packed_hidden(model, batch))


def test_detaching_leaves_the_base_bitwise():
    model, batch = tiny_model("llama"), pack(rows_of(LENGTHS))
    names, weights = list(model.state_dict()), {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        before = packed_hidden(model, batch)
    LoRA(rank=2).attach(model, "one")
    packed_hidden(model, batch).sum().backward()
    detach(model, "one")
    with torch.no_grad():
        assert torch.equal(packed_hidden(model, batch), before)
    assert list(model.state_dict()) == names
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_layers_below_the_lowest_update_cost_no_backward_products():
    """The upper layer alone has a backward pass, and its queries, keys and values pass nothing down."""
    model, batch = adapted("llama", targets=["layers.1.mlp.down_proj"]), pack(rows_of([6]))
    with FlopCount() as forward:
        hidden = packed_hidden(model, batch)
    with FlopCount() as backward:
        hidden.sum().backward()
    rank, tokens, inputs, outputs = 2, 6, 48, 32
    assert backward.total == 2 * tokens * rank * (outputs + inputs + outputs)
    assert forward.total > 10 * backward.total


@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("the family gemma", lambda: tiny_model("gemma").requires_grad_(False)),
        ("the activation gelu", lambda: tiny_model("llama", hidden_act="gelu").requires_grad_(False)),
        ("training of the base's own weights", lambda: tiny_model("llama")),
        ("a foreign hook at layers.1.mlp", hooked),
        ("another module at layers.0.mlp.up_proj", replaced),
        ("a delta at model", lambda: carrying("Prefix", length=2)),
        ("weights of several dtypes or on several devices", mixed),
    ],
)
def test_what_it_does_not_know_runs_the_modules(reason, spoil):
    model = spoil()
    packed_hidden(model, pack(rows_of([5, 3])))
    assert model.body_path == f"modules: {reason}"


@pytest.mark.parametrize(("family", "reason"), [("llama", "states between the blocks"), ("gpt2", "the family gpt2")])
def test_states_between_the_blocks_are_those_of_the_modules(family, reason):
    model = tiny_model(family).requires_grad_(False)
    packed_states(model, pack(rows_of([5, 3])), layers=True)
    assert model.body_path == f"modules: {reason}"


def test_an_adapter_elsewhere_is_no_obstacle_while_it_rests():
    model = carrying("Prefix", length=2)
    with active(model, None), torch.no_grad():
        packed_hidden(model, pack(rows_of([5, 3])))
    assert model.body_path == "fused"


def test_other_deltas_at_linear_maps_are_run_inside(monkeypatch):
    model, batch = carrying("DoRA", rank=2), pack(rows_of(LENGTHS))
    assert_equal(run(model, batch, monkeypatch, fused=True), run(model, batch, monkeypatch, fused=False))


def test_pruned_triplets_are_updates_too(monkeypatch):
    model, batch = carrying("AdaLoRA", rank=2), pack(rows_of(LENGTHS))
    got = run(model, batch, monkeypatch, fused=True)
    assert any(name.endswith("lora_E") for name in got[1])
    assert_equal(got, run(model, batch, monkeypatch, fused=False))


def test_vectors_at_inputs_and_outputs_are_run_inside(monkeypatch):
    model, batch = carrying("IA3"), pack(rows_of(LENGTHS))
    assert_equal(run(model, batch, monkeypatch, fused=True), run(model, batch, monkeypatch, fused=False))
