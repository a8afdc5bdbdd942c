"""DFT, EAFT, TALR, STM and FLOW against slow loops over positions and vocabulary, in float64."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from keeptune.core.spec import validate
from keeptune.losses import Loss
from keeptune.losses._weighted_rows import token_losses, weighted_next_token
from tests.losses.conftest import make_head, slow_logits

OFFSETS = [0, 4, 11]


class Seen:
    """A step of two rows on a head; the base differs from the model."""

    def __init__(self, hidden, targets, head):
        base = hidden.detach() + 0.5 * torch.randn(
            hidden.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64
        )
        self.hidden, self.base, self.head, self.reference_head = hidden, base, head, make_head(4)
        row_of = torch.tensor([0] * 4 + [1] * 7)
        self.batch = SimpleNamespace(
            targets=targets,
            known=lambda what, find: find(),
            offsets=OFFSETS,
            sources=["task", "replay"],
            ids=["a", "b"],
            pairs=[],
            segment_of=lambda: row_of,
        )

    def at(self, rows):
        return self.hidden[rows]

    def reference(self, rows):
        return self.base[rows]


@pytest.fixture
def seen(hidden, targets, head_settings):
    return Seen(hidden, targets, make_head(3, trains=True, **head_settings))


def slow(seen, weight, source=None):
    """sum of w_t (-log p_t) and sum of w_t, one position at a time; `weight(p, p0, target, row)` is the definition."""
    p_all = torch.softmax(slow_logits(seen.hidden, seen.head), -1)
    p0_all = torch.softmax(slow_logits(seen.base, seen.reference_head), -1).detach()
    total, mass = torch.zeros((), dtype=torch.float64), 0.0
    for row, (start, end) in enumerate(itertools.pairwise(OFFSETS)):
        if source not in (None, seen.batch.sources[row]):
            continue
        for t in range(start, end):
            target = int(seen.batch.targets[t])
            if target != -100:
                w = float(weight(p_all[t].detach(), p0_all[t], target, row))
                total, mass = total - w * torch.log(p_all[t, target]), mass + w
    return total, mass


def row_loss(seen, row):
    """Mean of the base's losses on a row."""
    p0_all = torch.softmax(slow_logits(seen.base, seen.reference_head), -1)
    found = [
        -math.log(p0_all[t, target])
        for t in range(OFFSETS[row], OFFSETS[row + 1])
        if (target := int(seen.batch.targets[t])) != -100
    ]
    return sum(found) / len(found)


def entropy_of_largest(p, top):
    largest = sorted(p.tolist(), reverse=True)[:top]
    return -sum(q / sum(largest) * math.log(q / sum(largest)) for q in largest) / math.log(len(largest))


CASES = {
    "dft": ({}, lambda p, p0, y, seen, row: p[y]),
    "talr": ({"temperature": 0.8, "floor": 0.2}, lambda p, p0, y, seen, row: max(p[y] ** (1 / 0.8), 0.2)),
    "eaft": ({"top": 5, "alpha": 1.5}, lambda p, p0, y, seen, row: entropy_of_largest(p, 5) ** 1.5),
    "stm": ({"threshold": 12.0}, lambda p, p0, y, seen, row: 1.0 if 1 / p0[y] <= 12.0 else 0.0),
    "flow": ({"temperature": 1.7}, lambda p, p0, y, seen, row: math.exp(-row_loss(seen, row) / 1.7)),
}


@pytest.mark.parametrize("source", [None, "replay"])
@pytest.mark.parametrize("name", CASES)
def test_sum_weights_and_gradient_equal_the_slow_loop(seen, name, source):
    settings, weight = CASES[name]
    expected, mass = slow(seen, lambda p, p0, y, row: weight(p, p0, y, seen, row), source)
    total, count = validate(Loss, {"name": name, "on": source, **settings}).terms(seen)
    assert 0 < mass < int((seen.batch.targets != -100).sum())
    assert count == pytest.approx(mass, rel=1e-10)
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-12)
    leaves = [seen.hidden, seen.head.weight]
    wanted = torch.autograd.grad(expected, leaves)
    for gradient, slow_gradient in zip(torch.autograd.grad(total, leaves), wanted, strict=True):
        torch.testing.assert_close(gradient, slow_gradient, rtol=1e-9, atol=1e-11)


def test_dft_has_the_gradient_of_minus_the_probability(hidden, targets):
    """d(-p)/dz = -p d(log p)/dz: an objective without a weight in it."""
    seen = Seen(hidden, targets, make_head(3))
    total, _ = validate(Loss, "dft").terms(seen)
    learned = torch.nonzero(targets != -100).squeeze(-1)
    plain = -torch.softmax(slow_logits(hidden, seen.head), -1)[learned, targets[learned]].sum()
    torch.testing.assert_close(torch.autograd.grad(total, hidden), torch.autograd.grad(plain, hidden))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("eaft", {"alpha": 0.0}), ("talr", {"temperature": 1e6}), ("stm", {"threshold": 1e9}), ("talr", {"floor": 1.0})],
)
def test_each_has_a_setting_at_which_it_is_next_token(hidden, targets, name, settings):
    seen = Seen(hidden, targets, make_head(3))
    total, mass = validate(Loss, {"name": name, **settings}).terms(seen)
    learned = targets != -100
    expected = torch.nn.functional.cross_entropy(
        slow_logits(hidden, seen.head)[learned], targets[learned], reduction="mean"
    )
    torch.testing.assert_close(total / mass, expected, rtol=1e-4, atol=0)


def test_dft_is_talr_without_its_floor(hidden, targets):
    seen = Seen(hidden, targets, make_head(3))
    one, other = (validate(Loss, loss).terms(seen) for loss in ("dft", {"name": "talr", "floor": 0.0}))
    torch.testing.assert_close(one[0], other[0])
    assert one[1] == pytest.approx(other[1])


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_chunks_change_nothing(hidden, targets, chunk):
    head, learned = make_head(3), torch.nonzero(targets != -100).squeeze(-1)
    weights = torch.linspace(0.0, 2.0, len(learned), dtype=torch.float64)
    total, mass = weighted_next_token(
        hidden[learned], targets[learned], head, lambda log_p, gold, place: weights[place], chunk=chunk
    )
    losses = token_losses(hidden[learned], targets[learned], head, chunk=chunk)
    torch.testing.assert_close(total, (weights * losses).sum())
    torch.testing.assert_close(mass, weights.sum())


def test_flow_takes_the_median_of_its_rows_as_temperature():
    asked = []
    loss = validate(Loss, {"name": "flow", "on": "task"})
    found = loss.calibrated(lambda source: asked.append(source) or [4.0, 1.0, 2.0, 9.0])
    assert (found.temperature, asked) == (3.0, ["task"])
    set_by_hand = validate(Loss, {"name": "flow", "temperature": 0.5})
    assert set_by_hand.calibrated(lambda source: [1.0]) is set_by_hand
