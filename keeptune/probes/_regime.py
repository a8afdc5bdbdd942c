"""How a probe learns and is scored: the regime of Hewitt & Liang 2019 (arXiv:1909.03368), as in their code.

Adam at 1e-3 on batches of twenty texts; the rate is halved whenever the loss on dev has not fallen at the end of an
epoch; learning stops at the fifth epoch in a row without a fall by 0.001, or after forty; the best epoch is kept. The
loss is the sum over a text's units, in nats, and the mean of that over texts. `tests/oracles/control_tasks.py` runs
their code on the same states.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeptune.core.errors import DivergedError
from keeptune.probes import EPOCHS, Probe
from keeptune.probes._material import Material

RATE, GAIN, PATIENCE = 1e-3, 1e-3, 5


@dataclass(frozen=True)
class Fitted:
    """A probe that has learned.

    Attributes:
        net: at its best epoch.
        epochs: that it learned.
        dev_loss: nats per text at the best one.
    """

    net: nn.Module
    epochs: int
    dev_loss: float


def fit(probe: Probe, classes: int, train: Material, dev: Material, seed: int) -> Fitted:
    """Teaches a new probe.

    Args:
        probe: the family.
        classes: C.
        train: what it learns.
        dev: what decides about rates and the end.
        seed: of its first weights and of the order.

    Raises:
        DivergedError: the loss on dev is not finite (E-PROBE-DIVERGED).
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = probe.net(train.states.shape[1], classes, train.kind)
        optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
        halving = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        best, best_epoch, kept, epoch = float("inf"), 0, copy.deepcopy(net.state_dict()), 0
        for epoch in range(1, EPOCHS + 1):
            _learn(net, optimizer, train, torch.randperm(train.texts, generator=generator).tolist())
            loss = float(-chances(net, dev).sum()) / dev.texts
            if not torch.isfinite(torch.tensor(loss)):
                raise DivergedError(
                    f"the loss of the probe '{probe.title}' is {loss} after epoch {epoch}.", code="E-PROBE-DIVERGED",
                    fix="Check the model's states: are all of its weights finite?",
                )  # fmt: skip
            halving.step(loss)
            if loss < best - GAIN:
                best, best_epoch, kept = loss, epoch, copy.deepcopy(net.state_dict())
            elif epoch - best_epoch >= PATIENCE:
                break
    net.load_state_dict(kept)
    return Fitted(net.eval(), epoch, best)


def _learn(net: nn.Module, optimizer: torch.optim.Optimizer, train: Material, order: list[int]) -> None:
    net.train()
    for batch in train.batches(order):
        answers = batch.asked()
        if len(answers) == 0:
            continue
        loss = functional.nll_loss(batch.log_shares(net), answers, reduction="sum") / batch.texts
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def chances(net: nn.Module, material: Material) -> Tensor:
    """`[A]` log probability, in nats, of the answer of each unit that is asked."""
    return _scored(net, material)[0]


def right(net: nn.Module, material: Material) -> Tensor:
    """`[A]` whether the likeliest answer is the one."""
    return _scored(net, material)[1]


def _scored(net: nn.Module, material: Material) -> tuple[Tensor, Tensor]:
    net.eval()
    own, hits = [], []
    with torch.no_grad():
        for batch in material.batches(range(material.texts)):
            shares, answers = batch.log_shares(net), batch.asked()
            own.append(shares.gather(1, answers[:, None])[:, 0])
            hits.append(shares.argmax(1) == answers)
    return torch.cat(own), torch.cat(hits)
