"""Weighted losses however the batch is cut; L2-SP and EWC against autograd and a slow Fisher loop; whole runs."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from keeptune.core.errors import RecipeError
from keeptune.core.spec import validate
from keeptune.losses import Loss
from keeptune.stages._anchor import Anchor, fisher
from keeptune.stages._prepared import _backward, mean_losses
from tests.stages.test_step import gradients, objective
from tests.stages.tiny_training import rows, stage

WEIGHTED = ["dft", "eaft", "talr", {"name": "stm", "threshold": 64}, {"name": "flow", "temperature": 4.0}]


@pytest.fixture
def batch():
    return [*rows("task", 6).rows, *rows("replay", 4).rows]


@pytest.mark.parametrize("limit", [1, 20])
@pytest.mark.parametrize("loss", WEIGHTED, ids=str)
def test_a_weighted_loss_does_not_depend_on_how_the_batch_is_cut(batch, loss, limit):
    """Up to the rounding of the fused body, which the pass without gradients takes."""
    whole, cut = objective(losses=[loss]), objective(limit, losses=[loss])
    first, second = whole.backward(batch), cut.backward(batch)
    assert first.loss == pytest.approx(second.loss, rel=1e-6)
    assert first.parts == pytest.approx(second.parts, rel=1e-6)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(cut)[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", WEIGHTED, ids=str)
def test_weights_have_mean_one_and_the_mean_before_is_recorded(batch, loss):
    """The loss is sum w l / sum w: between the smallest and the largest token loss, whatever the scale of w."""
    goal = objective(losses=[loss])
    result = goal.backward(batch)
    name = goal.names[0]
    assert 0 < result.parts[f"{name}.weight"] <= 1
    plain = objective(losses=["next_token"])
    assert result.loss == pytest.approx(plain.backward(batch).loss, rel=0.5)
    assert result.loss == result.parts[name]


def test_tokens_that_all_weigh_nothing_give_no_loss_and_no_gradient(batch):
    result = objective(losses=[{"name": "stm", "threshold": 1.0}]).backward(batch)
    assert (result.loss, result.norm) == (0, 0)


def test_l2_sp_has_the_gradient_of_autograd(batch):
    goal = objective(losses=["next_token", {"name": "l2_sp", "weight": 0.3}])
    plain = objective(losses=["next_token"])
    plain.backward(batch)
    goal = replace(goal, anchors={1: Anchor.at(goal.masters)})
    start = [master.detach().clone() for _, master in goal.masters.named]
    with torch.no_grad():
        for number, (_, master) in enumerate(goal.masters.named):
            master.add_(0.01 * (number + 1))
        for (_, other), (_, master) in zip(plain.masters.named, goal.masters.named, strict=True):
            other.copy_(master)
    base = plain.backward(batch)
    result = goal.backward(batch)
    moved = [master.detach().clone().requires_grad_() for _, master in goal.masters.named]
    pull = 0.3 * sum(((now - then) ** 2).sum() for now, then in zip(moved, start, strict=True)) / 2
    expected = torch.autograd.grad(pull, moved)
    pull = float(pull.detach())
    for (name, gradient), extra in zip(gradients(goal).items(), expected, strict=True):
        torch.testing.assert_close(gradient, gradients(plain)[name] + extra, rtol=1e-8, atol=1e-10)
    assert result.loss == pytest.approx(base.loss + pull, rel=1e-6)
    assert result.parts["l2_sp"] == pytest.approx(pull / 0.3, rel=1e-6)


def test_fisher_is_the_mean_square_of_the_gradient_of_each_row(batch):
    """One row at a time through transformers' own loss."""
    goal = objective(losses=["next_token"])
    found = fisher(goal.masters, [partial(_backward, goal, row) for row in batch])
    model = copy.deepcopy(goal.model)
    slow = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for row in batch:
        model.zero_grad()
        labels = [token if learned else -100 for token, learned in zip(row.tokens, row.learned, strict=True)]
        loss = model(torch.tensor([row.tokens]), labels=torch.tensor([labels])).loss * sum(row.learned[1:])
        loss.backward()
        for square, parameter in zip(slow, model.parameters(), strict=True):
            square.add_(parameter.grad**2)
    mean = sum(square.sum() for square in slow) / sum(square.numel() for square in slow)
    for ours, square in zip(found, slow, strict=True):
        torch.testing.assert_close(ours, square / mean, rtol=1e-4, atol=2e-5)
    total = sum(float(square.sum()) for square in found) / sum(square.numel() for square in found)
    assert total == pytest.approx(1)


def test_ewc_weighs_the_pull_by_importance():
    goal = objective(losses=["next_token"])
    anchor = Anchor.at(goal.masters)
    importance = [torch.full_like(start, 2.0 + number) for number, start in enumerate(anchor.start)]
    anchor = replace(anchor, importance=importance)
    with torch.no_grad():
        for _, master in goal.masters.named:
            master.add_(0.5)
    value, pulls = validate(Loss, "ewc").pull(anchor)
    assert float(value) == pytest.approx(sum(0.5 * (2 + i) * 0.25 * s.numel() for i, s in enumerate(anchor.start)))
    for number, pull in enumerate(pulls):
        torch.testing.assert_close(pull, torch.full_like(pull, 0.5 * (2 + number)))


def test_row_losses_are_those_of_transformers(batch):
    goal = objective()
    found = mean_losses(goal.reference, batch)
    for row, loss in zip(batch, found, strict=True):
        labels = [token if learned else -100 for token, learned in zip(row.tokens, row.learned, strict=True)]
        with torch.no_grad():
            expected = goal.reference.model(torch.tensor([row.tokens]), labels=torch.tensor([labels])).loss
        assert loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    "extra",
    [
        "dft",
        "eaft",
        "talr",
        {"name": "stm", "threshold": 64},
        "flow",
        "masked_kl",
        "l2_sp",
        {"name": "ewc", "fisher_rows": 5},
    ],
    ids=str,
)
def test_a_stage_trains_with_it_and_says_so(bench, extra):
    loss = validate(Loss, extra)
    losses = ["next_token", extra] if loss.pulls or loss.name == "masked_kl" else [extra]
    bench.train(method="full", losses=losses, steps=4, memory={"micro_batch_tokens": 24})
    last = bench.metrics()[-1]
    assert last["step"] == 4
    assert last[loss.name] >= 0
    assert (f"{loss.name}.weight" in last) is loss.weighs


def test_the_weights_are_held_near_their_start(bench):
    from safetensors.torch import load_file

    before = load_file(bench.model / "model.safetensors")

    def distance(name, losses):
        folder = bench.train(
            name, method="full", losses=losses, optimizer={"name": "adamw", "lr": 1e-2, "weight_decay": 0.0}
        ).base
        after = load_file(f"{folder}/model.safetensors")
        return sum(float(((after[key] - value) ** 2).sum()) for key, value in before.items())

    free = distance("free", ["next_token"])
    assert distance("l2", ["next_token", {"name": "l2_sp", "weight": 10}]) < 0.7 * free
    assert distance("ewc", ["next_token", {"name": "ewc", "weight": 10}]) < free


def test_a_pull_on_weights_that_do_not_move_is_refused_by_name():
    with pytest.raises(RecipeError, match="'l2_sp' pulls the base's own weights back, and 'lora'"):
        stage(losses=["next_token", "l2_sp"])


def test_the_source_of_the_importance_must_exist(bench):
    with pytest.raises(RecipeError) as caught:
        bench.train(method="full", losses=["next_token", {"name": "ewc", "fisher_on": "replai"}])
    assert caught.value.code == "E-TRAIN-SOURCE"
    assert "replay" in caught.value.fix
