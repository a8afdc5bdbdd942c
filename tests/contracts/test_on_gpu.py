"""On a GPU everything computes what it computes on a processor, and nothing lies where it should not.

Without one, tensors pretend to lie there (`tests/pretend_gpu.py`).
"""

from __future__ import annotations

import functools

import pytest
import torch

from keeptune.engine.batch import pack
from keeptune.engine.generation import generate
from keeptune.engine.head import head_of
from keeptune.engine.packed import packed_hidden
from keeptune.losses import Loss
from keeptune.losses.next_token import next_token
from keeptune.methods import LoRA, Method
from keeptune.stages._masters import Masters
from keeptune.stages._step import Objective
from tests.contracts.test_methods import NAMES, small
from tests.engine.adapted import LENGTHS as PROMPTS
from tests.engine.adapted import STACKS, adapted, texts
from tests.engine.test_generation import Pads, settings
from tests.engine.test_packed import LENGTHS, rows_of
from tests.pretend_gpu import GPU, OnGPU, pretend_gpu, waits
from tests.stages.test_preference_losses import pairs
from tests.stages.tiny_training import rows as made
from tests.tiny_models import CONFIGS, SEQ2SEQ, tiny_model


def step(model):
    """The loss of a packed batch and the gradients of all that trains."""
    torch.manual_seed(3)
    batch = pack(rows_of(LENGTHS)).to(model.device)
    loss = next_token(packed_hidden(model, batch), batch.targets, head_of(model))
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all(gradient.device == model.device for gradient in gradients.values())
    return loss.detach().to("cpu"), {name: gradient.to("cpu") for name, gradient in gradients.items()}


def both(family, attach):
    """What a step gives on a processor and on a GPU."""
    there = tiny_model(family)
    attach(there)
    expected = step(there)
    with pretend_gpu():
        here = tiny_model(family).to("cuda")
        attach(here)
        assert all(isinstance(p, OnGPU) for p in here.parameters()), "a parameter stayed on the processor"
        found = step(here)
    return found, expected


@pytest.mark.parametrize("family", [*CONFIGS, *SEQ2SEQ])
def test_a_step_of_every_family_is_that_of_a_processor(family):
    found, expected = both(family, lambda model: LoRA(rank=2).attach(model, "one"))
    assert expected[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_every_method_is_that_of_a_processor(name):
    found, expected = both("llama", lambda model: small(name).attach(model, "one"))
    assert expected[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_from_the_weights_is_that_of_a_processor(start):
    found, expected = both("llama", lambda model: LoRA(rank=2, init=start).attach(model, "one"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral, window", "gemma2", "gemma3_text", "gpt_neox"])
def test_any_mix_of_adapters_writes_what_it_writes_on_a_processor(family):
    prompts = [text.tolist() for text in texts(PROMPTS * 2)]
    expected = generate(adapted(family), Pads(), prompts, rows=STACKS * 2, **settings())
    with pretend_gpu():
        assert generate(adapted(family).to("cuda"), Pads(), prompts, rows=STACKS * 2, **settings()) == expected


def test_rows_in_16_bits_go_through_one_kernel_of_attention(monkeypatch):
    from torch.nn.attention import varlen

    with pretend_gpu():
        calls, real = [], varlen.varlen_attn

        @functools.wraps(real)
        def watched(*given, **named):
            calls.append(named["window_size"])
            return real(*given, **named)

        monkeypatch.setattr(varlen, "varlen_attn", watched)
        model = tiny_model("mistral, window").bfloat16().to("cuda")
        LoRA(rank=2).attach(model, "one")
        step(model)
    assert calls == [(4, 0)] * model.config.num_hidden_layers


@pytest.mark.parametrize("losses", [["next_token"], ["dft"], ["simpo"]])
def test_nothing_waits_for_the_gpu_between_a_forward_pass_and_its_backward_pass(losses, monkeypatch):
    """Rows that a loss runs over are found before the batch goes there; else the backward pass could not be queued."""
    order: list[str] = []

    def told(name, function):
        def call(*given, **named):
            before.extend(waits)
            waits.clear()
            result = function(*given, **named)
            order.extend([f"{name}: waits {wait}" for wait in waits])
            return result

        return call

    before: list[str] = []
    rows = pairs("task") if losses == ["simpo"] else [*made("task", 6).rows, *made("replay", 4).rows]
    with pretend_gpu():
        model = tiny_model("llama").to("cuda")
        LoRA(rank=2).attach(model, "one")
        stacks = {"task": ("one",), "replay": ("one",)}
        goal = Objective(model, Masters(model), [Loss.find(name)() for name in losses], stacks, None, 10**6)
        monkeypatch.setattr(goal, "_pieces", told("forward", goal._pieces))
        monkeypatch.setattr(torch.autograd, "backward", told("backward", torch.autograd.backward))
        waits.clear()
        result = goal.backward(rows)
    assert result.norm > 0
    allowed = 2 if losses == ["dft"] else 0  # for each source it divides by weights that only the pass itself gives
    assert len(order) == allowed, order


def test_what_pretends_to_be_a_gpu_refuses_what_a_gpu_refuses():
    with pretend_gpu():
        x = torch.arange(6.0, device="cuda").view(2, 3)
        assert x.device == GPU
        assert {y.device for y in (x @ x.T, x[0], torch.zeros_like(x), x.new_zeros(2), x.bfloat16())} == {GPU}
        assert x.to("cpu").device == torch.device("cpu")
        for wrong in (lambda: x + torch.ones(3), lambda: torch.cat([x, torch.ones(1, 3)]), lambda: x @ torch.ones(3)):
            with pytest.raises(RuntimeError, match="two devices"):
                wrong()
        with pytest.raises(TypeError, match="array"):
            x.numpy()
        assert float(x.sum()) == 15
        assert x[torch.tensor([1])].tolist() == [[3, 4, 5]]


def test_every_method_of_the_shelf_is_tried():
    assert {name for name in Method.names() if not Method.find(name).reads_only} == set(NAMES)
