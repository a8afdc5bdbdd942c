"""Probes against loops over pairs, logistic regression and the definitions of regime and codelength."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.testing import assert_close

from keeptune.core.errors import DivergedError, RecipeError
from keeptune.probes import Probe, _codelength, _material, _regime
from keeptune.probes._codelength import block_ends, codelength
from keeptune.probes._material import Material
from keeptune.probes._regime import fit, right
from keeptune.probes.bilinear import Bilinear
from keeptune.probes.linear import Linear
from keeptune.probes.mlp import MLP

WIDTH = 6


def edges(seed: int = 0) -> Material:
    draw = torch.Generator().manual_seed(seed)
    answers = [(1, -1, 0), (0,), (-1, -1), (2, 2, -1, 4, 0)]
    return Material.of(torch.randn(11, WIDTH, generator=draw), answers, "edges")


def labels(texts: int, classes: int = 4, seed: int = 0, noise: float = 1.0) -> Material:
    """States whose class is a noisy linear function of them, three units a text."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(WIDTH, classes, generator=torch.Generator().manual_seed(99))
    states = torch.randn(3 * texts, WIDTH, generator=draw)
    own = (states @ mix + noise * torch.randn(3 * texts, classes, generator=draw)).argmax(1)
    return Material.of(states, [tuple(row) for row in own.view(texts, 3).tolist()], "labels")


@pytest.mark.parametrize("alike", [3, 5])
@pytest.mark.parametrize("probe", [Bilinear(rank=3), MLP(width=5), MLP(depth=2, width=5)])
def test_a_heads_share_is_the_softmax_over_the_words_of_its_own_text(probe, alike, monkeypatch):
    """Whether the four texts, of lengths that do not ascend, are scored together or not."""
    monkeypatch.setattr(_material, "ALIKE_TEXTS", alike)
    torch.manual_seed(0)
    net, given = probe.net(WIDTH, 0, "edges"), edges()
    got, place = given.log_shares(net), 0
    for text, (start, end) in enumerate(zip(given.offsets, given.offsets[1:], strict=False)):
        states = given.states[start:end]
        for i in range(end - start):
            if given.answers[start + i] == -1:
                continue
            scores = []
            for j in range(end - start):
                if isinstance(probe, Bilinear):
                    scores.append(states[i] @ net.left @ net.right @ states[j])
                else:
                    scores.append(net.behind(net.both(torch.cat([states[i], states[j]])))[0])
            expected = torch.stack(scores).log_softmax(0)
            assert_close(got[place, : end - start], expected, rtol=1e-4, atol=1e-5)
            assert torch.isneginf(got[place, end - start :]).all(), text
            place += 1
    assert place == len(got)


def test_the_first_scores_of_heads_deviate_by_a_third_on_states_of_deviation_one():
    torch.manual_seed(0)
    for width, rank in ((64, 64), (256, 16)):
        with torch.no_grad():
            scores = Bilinear(rank=rank).net(width, 0, "edges")(torch.randn(4, 60, width))
        assert 0.25 < float(scores.std()) < 0.42


def test_a_rank_limits_the_linear_map():
    net = Linear(rank=2).net(WIDTH, 9, "labels")
    assert torch.linalg.matrix_rank(net[1].weight @ net[0].weight) == 2


def test_what_a_family_cannot_answer_is_refused_by_name():
    for probe, kind, other in ((Linear(), "edges", "bilinear or mlp"), (Bilinear(), "labels", "linear or mlp")):
        with pytest.raises(RecipeError) as caught:
            probe.check(kind)
        assert caught.value.code == "E-PROBE-KIND"
        assert other in caught.value.fix
    assert Probe.names() == ["bilinear", "linear", "mlp"]


@pytest.mark.slow
def test_the_linear_probe_ends_where_logistic_regression_does():
    train, dev, test = labels(4000), labels(400, seed=1), labels(1000, seed=2)
    fitted = fit(Linear(), 4, train, dev, 0)
    features, wanted = train.states.double().numpy(), train.answers.numpy()

    def loss(flat: np.ndarray) -> float:
        scores = features @ flat[: WIDTH * 4].reshape(WIDTH, 4) + flat[WIDTH * 4 :]
        peak = scores.max(1)
        logs = peak + np.log(np.exp(scores - peak[:, None]).sum(1))
        return float((logs - scores[np.arange(len(wanted)), wanted]).mean())

    best = minimize(loss, np.zeros(WIDTH * 4 + 4), method="L-BFGS-B")
    weights = best.x[: WIDTH * 4].reshape(WIDTH, 4)
    theirs = (test.states.double().numpy() @ weights + best.x[WIDTH * 4 :]).argmax(1) == test.answers.numpy()
    own = right(fitted.net, test).numpy()
    assert abs(own.mean() - theirs.mean()) < 0.02
    assert (own == theirs).mean() > 0.95


@pytest.mark.parametrize(("losses", "epochs", "best"), [
    ([5.0, 4.0, 3.0] + [3.0] * 40, 8, 3.0),
    ([5.0, 4.9995, 4.999, 4.9985, 4.998, 4.0] + [9.0] * 40, 11, 4.0),
    ([5.0, 4.9999, 4.9998, 4.9997, 4.9996, 4.9995, 1.0], 6, 5.0),
    ([40.0 - number for number in range(40)], 40, 1.0),
])  # fmt: skip
def test_learning_stops_at_the_fifth_epoch_without_a_fall_by_a_thousandth(monkeypatch, losses, epochs, best):
    given = iter(losses)
    monkeypatch.setattr(_regime, "chances", lambda *_: torch.tensor([-5 * next(given)], dtype=torch.float64))
    fitted = fit(Linear(), 4, labels(5), labels(5), 0)
    assert (fitted.epochs, fitted.dev_loss) == (epochs, best)


def test_the_same_seed_gives_the_same_probe_and_leaves_torchs_generator_alone():
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    nets = [fit(MLP(width=8), 4, labels(30), labels(10), seed).net for seed in (3, 3, 4)]
    assert torch.equal(before, torch.random.get_rng_state())
    first, same, other = (next(net.parameters()) for net in nets)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_states_that_are_not_finite_are_named():
    broken = labels(5)
    broken.states[0, 0] = float("nan")
    with pytest.raises(DivergedError) as caught:
        fit(Linear(), 4, broken, labels(5), 0)
    assert caught.value.code == "E-PROBE-DIVERGED"


def test_blocks_end_at_the_shares_of_the_paper():
    assert block_ends(10_000) == [10, 20, 40, 80, 160, 320, 625, 1250, 2500, 5000, 10_000]
    assert block_ends(3) == [1, 3]


def test_the_codelength_is_the_uniform_first_block_and_each_answers_own_cost(monkeypatch):
    """With a probe that always says p = 1/8 for the answer, every later answer costs three bits."""
    monkeypatch.setattr(_codelength, "fit", lambda *_: type("F", (), {"net": None}))
    monkeypatch.setattr(_codelength, "chances", lambda _, part: torch.full((len(part.asked()),), math.log(1 / 8)))
    given = labels(100)
    found = codelength(Linear(), 4, given, given, 0)
    assert found.uniform == 300 * 2
    assert found.bits == pytest.approx(3 * 2 + 297 * 3)
    heads = codelength(Bilinear(), 0, edges(), edges(), 0)
    assert heads.uniform == pytest.approx(2 * math.log2(3) + math.log2(1) + 4 * math.log2(5))


@pytest.mark.slow
def test_states_that_say_the_answer_compress_and_random_answers_do_not():
    easy, dev = labels(3000, noise=0.1), labels(200, seed=1, noise=0.1)
    shuffled = easy.answers[torch.randperm(9000, generator=torch.Generator().manual_seed(5))]
    noise = Material(easy.states, easy.offsets, shuffled, "labels")
    assert codelength(Linear(), 4, easy, dev, 0).compression > 2
    assert codelength(Linear(), 4, noise, dev, 0).compression < 1.1
