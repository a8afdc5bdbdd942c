"""The gradient of a global batch does not depend on how it is cut; masters, schedules, optimisers."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import replace

import numpy
import pytest
import torch

from keeptune.core.errors import MachineError, PlanError
from keeptune.core.spec import validate
from keeptune.data.encode import Encoded
from keeptune.engine.attention import use_attention
from keeptune.engine.batch import PackedBatch
from keeptune.losses import Loss
from keeptune.stages import _step
from keeptune.stages._masters import Masters
from keeptune.stages._random import RandomState
from keeptune.stages._reference import Reference
from keeptune.stages._step import Objective, micro_batches
from keeptune.stages.optimizers import Optimizer
from tests.stages.tiny_training import rows
from tests.tiny_models import tiny_model

LOSSES = [{"name": "next_token", "weight": 0.5}, {"name": "kl_to_base", "on": "replay", "weight": 2.0}]


@pytest.fixture
def batch():
    return [*rows("task", 6).rows, *rows("replay", 4).rows]


def objective(limit=10**6, losses=LOSSES, dtype=torch.float64):
    model = tiny_model("llama").to(dtype)
    base = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5), dtype=dtype))
    stacks = {"task": (), "replay": ()}
    use_attention(model)
    return Objective(
        model=model,
        masters=Masters(model),
        losses=[validate(Loss, loss) for loss in losses],
        stacks=stacks,
        reference=Reference(base.requires_grad_(False), stacks, copied=True),
        micro_batch_tokens=limit,
    )


def gradients(goal):
    return {name: master.grad.clone() for name, master in goal.masters.named}


@pytest.mark.parametrize("limit", [1, 20, 37])
def test_a_global_batch_gives_one_loss_and_gradient_however_it_is_cut(batch, limit):
    """Cut by row, one micro-batch has only task rows and another only replay rows."""
    whole, cut = objective(), objective(limit)
    first, second = whole.backward(batch), cut.backward(batch)
    assert len(micro_batches(batch, limit)) > 1
    assert first.loss == pytest.approx(second.loss, rel=1e-6)
    assert first.parts == pytest.approx(second.parts, rel=1e-6)
    assert first.norm == pytest.approx(second.norm, rel=1e-6)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(cut)[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("losses", [[{"name": "next_token"}], LOSSES])
def test_a_row_ends_with_what_is_read_of_it(losses, batch, monkeypatch):
    """The last token of a row predicts nothing, nor does what nobody learns behind an answer: both are left out."""
    longer = [replace(row, tokens=(*row.tokens, 5, 6, 7), learned=(*row.learned, False, False, False)) for row in batch]
    ended, last = objective(losses=losses), objective(losses=losses)
    found, same = ended.backward(longer), last.backward(batch)
    whole = objective(losses=losses)
    monkeypatch.setattr(PackedBatch, "until_read", lambda self: self)
    expected = whole.backward(longer)
    read = sum(max(place for place, learned in enumerate(row.learned) if learned) for row in batch)
    assert found.tokens == same.tokens < expected.tokens == sum(len(row.tokens) for row in longer)
    assert found.tokens == read
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.parts == pytest.approx(expected.parts, rel=1e-6)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(ended)[name], gradient, rtol=1e-9, atol=1e-12)


def test_rows_of_one_prompt_give_the_loss_and_gradient_of_the_rows_alone():
    """Three answers to one prompt in each source; cut by row, nothing is shared."""
    prompts = {"task": tuple(range(4, 16)), "replay": tuple(range(30, 44))}
    batch = [
        Encoded(f"{source}-{number}", source, (*prompt, 20 + number, 21, 2), (False,) * len(prompt) + (True,) * 3)
        for number in range(3)
        for source, prompt in prompts.items()
    ]
    shared, alone = objective(), objective(1)
    first, second = shared.backward(batch), alone.backward(batch)
    assert first.tokens < second.tokens
    assert first.learned == second.learned
    assert first.parts == pytest.approx(second.parts, rel=1e-6)
    # transformers' norms compute in float32, whatever the model's dtype.
    for name, gradient in gradients(shared).items():
        torch.testing.assert_close(gradients(alone)[name], gradient, rtol=1e-5, atol=1e-6)


def test_the_objective_is_the_sum_of_separate_losses_over_their_own_tokens(batch):
    """Slow: transformers' own forward, one row at a time, full logits, an explicit loop over words for the KL."""
    goal = objective()
    result = goal.backward(batch)
    nll, kl, learned, replayed = 0.0, 0.0, 0, 0
    base = goal.reference.model
    for row in batch:
        tokens = torch.tensor([row.tokens])
        with torch.no_grad():
            log_p, log_p0 = (torch.log_softmax(model(tokens).logits[0], -1) for model in (goal.model, base))
        for t in range(1, len(row.tokens)):
            if row.learned[t]:
                nll -= float(log_p[t - 1, row.tokens[t]])
                learned += 1
                if row.source == "replay":
                    kl += float((log_p0[t - 1].exp() * (log_p0[t - 1] - log_p[t - 1])).sum())
                    replayed += 1
    assert result.learned == learned
    assert result.parts["next_token"] == pytest.approx(nll / learned, rel=1e-6)
    assert result.parts["kl_to_base"] == pytest.approx(kl / replayed, rel=1e-5)
    assert result.loss == pytest.approx(0.5 * nll / learned + 2.0 * kl / replayed, rel=1e-6)
    assert goal.value(batch) == pytest.approx(result.loss, rel=1e-6)


def test_a_batch_without_rows_for_a_loss_leaves_it_out(batch):
    result = objective().backward(batch[:6])
    assert set(result.parts) == {"next_token"}
    nothing = objective(losses=[{"name": "next_token", "on": "other"}]).backward(batch)
    assert math.isnan(nothing.loss), "0.0 would look like success"


def test_memory_that_runs_out_begins_the_step_again_with_half_the_micro_batch(batch, monkeypatch):
    whole, scarce = objective(), objective()
    whole.backward(batch)
    original, drawn, events = _step.packed_states, [], []

    def states(model, part, **settings):
        drawn.append(float(torch.rand(())))
        if len(part.tokens) > 25:
            raise torch.cuda.OutOfMemoryError("none left")
        return original(model, part, **settings)

    monkeypatch.setattr(_step, "packed_states", states)
    scarce.event = lambda kind, **fields: kind == "forward_pass" or events.append((kind, fields["micro_batch_tokens"]))
    scarce.backward(batch)
    assert [kind for kind, _ in events] == ["out_of_memory"] * len(events)
    assert events[-1][1] <= 25
    assert len(set(drawn[: len(events)])) == 1, "the generators were set back"
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(scarce)[name], gradient, rtol=1e-9, atol=1e-12)


def test_a_row_that_does_not_fit_is_an_error_with_its_length(batch, monkeypatch):
    def states(model, part, **settings):
        raise torch.cuda.OutOfMemoryError("none left")

    monkeypatch.setattr(_step, "packed_states", states)
    longest = max(len(row.tokens) for row in batch)
    with pytest.raises(MachineError, match=f"{longest} tokens") as caught:
        objective().backward(batch)
    assert caught.value.code == "E-MEMORY-GPU"


def test_virtual_tokens_count_towards_a_micro_batch(batch):
    assert len(micro_batches(batch, 40, overhead=30)) > len(micro_batches(batch, 40))
    assert [i for part in micro_batches(batch, 40, overhead=30) for i in part.ids] == [row.id for row in batch]


def test_bfloat16_gradients_are_summed_in_float32():
    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    masters = Masters(layer)
    for value in (256.0, 1.0, 1.0):
        layer(torch.tensor([[value]], dtype=torch.bfloat16)).sum().backward()
        masters.collect()
    assert masters.gradients[0].item() == 258.0, "in bfloat16, 256 + 1 is 256"
    assert layer.weight.grad is None
    masters.drop_gradients()
    assert masters.gradients == []


def test_float32_parameters_are_their_own_masters():
    layer = torch.nn.Linear(2, 2)
    assert Masters(layer).named == [("weight", layer.weight), ("bias", layer.bias)]


def test_random_states_come_back_after_json_and_safetensors(tmp_path):
    from keeptune.stages._commits import read_random, write_state

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    write_state(tmp_path, [], optimizer, {})
    drawn = [random.random(), float(numpy.random.rand()), float(torch.rand(()))]
    torch.rand(7)
    read_random(tmp_path).restore()
    assert drawn == [random.random(), float(numpy.random.rand()), float(torch.rand(()))]
    assert isinstance(read_random(tmp_path), RandomState)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [0.5, 1, *(0.5 + 0.5 * math.cos(math.pi * i / 8) for i in range(8))]),
    ],
)
def test_the_rate_rises_over_warmup_and_falls_as_the_schedule_says(schedule, expected):
    rule = validate(Optimizer, {"name": "adamw", "schedule": schedule, "warmup": 0.2})
    assert [rule.factor(step, 10) for step in range(10)] == pytest.approx(expected)


def test_matrices_decay_and_vectors_do_not():
    layer = torch.nn.Linear(3, 3)
    rule = validate(Optimizer, {"name": "adamw", "lr": 0.1, "weight_decay": 0.5})
    built = rule.build(list(layer.named_parameters()))
    layer.weight.grad, layer.bias.grad = torch.zeros(3, 3), torch.zeros(3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    built.step()
    torch.testing.assert_close(layer.weight.detach(), weight * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias.detach(), bias)


def test_adafactor_takes_the_rate_of_the_recipe():
    """First step: the update is g / sqrt(factored g^2), clipped to root mean square 1: here exactly the sign of g."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    built = validate(Optimizer, {"name": "adafactor", "lr": 0.3}).build([("p", parameter)])
    parameter.grad = torch.tensor([[2.0, -2.0], [2.0, -2.0]])
    built.step()
    torch.testing.assert_close(parameter.detach(), -0.3 * parameter.grad.sign(), rtol=1e-4, atol=1e-5)


def test_eight_bit_adamw_is_refused_without_a_gpu():
    with pytest.raises(PlanError) as caught:
        validate(Optimizer, "adamw_8bit").build([("p", torch.nn.Parameter(torch.zeros(2)))])
    assert caught.value.code == "E-TRAIN-8BIT"


def test_without_gradients_an_optimizer_moves_nothing():
    for name in ("adamw", "adafactor"):
        parameter = torch.nn.Parameter(torch.ones(2, 2))
        built = validate(Optimizer, {"name": name, "weight_decay": 0.5}).build([("p", parameter)])
        built.step()
        assert torch.equal(parameter.detach(), torch.ones(2, 2))
        assert built.state_dict()["state"] == {}


def test_a_step_over_several_sources_says_what_each_came_to(batch):
    """The sums of the sources are the sum of the whole; a source alone gives its own mean; cuts change nothing."""
    losses = [{"name": "next_token"}, {"name": "kl_to_base", "on": "replay", "weight": 2.0}]
    whole = objective(losses=losses).backward(batch)
    found = whole.sources
    assert set(found) == {f"{what}/{name}" for what in ("next_token", "rows", "tokens") for name in ("task", "replay")}
    count = {}
    for name in ("task", "replay"):
        own = [row for row in batch if row.source == name]
        count[name] = sum(sum(row.learned) for row in own)
        alone = objective(losses=losses[:1]).backward(own)
        assert alone.sources == {}
        assert found[f"next_token/{name}"] == pytest.approx(alone.parts["next_token"], rel=1e-6)
        assert found[f"rows/{name}"] == len(own)
        assert found[f"tokens/{name}"] == sum(len(row.tokens) for row in own)
    mean = sum(found[f"next_token/{name}"] * count[name] for name in count) / sum(count.values())
    assert whole.parts["next_token"] == pytest.approx(mean, rel=1e-6)
    assert objective(20, losses=losses).backward(batch).sources == pytest.approx(found, rel=1e-6)
