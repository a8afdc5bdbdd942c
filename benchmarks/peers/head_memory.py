"""Memory of the head and the loss alone, in a process that holds nothing else: full logits, or keeptune's rows."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.pipe import Turns, forget_peak


def full(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Every logit at once, the loss in float32: what a model of transformers computes when it is given labels."""
    return functional.cross_entropy(functional.linear(hidden, weight).float(), targets, reduction="sum")


def own(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The loss of the train stage."""
    from keeptune.engine.head import Head
    from keeptune.losses.next_token import next_token

    return next_token(hidden, targets, Head(weight))


def main(settings: dict[str, Any], turns: Turns) -> None:
    """Answers with the peak of one forward and backward pass, and what it computed.

    Args:
        settings: `kind` full or own, `rows`, `width`, `vocabulary`, `dtype`.
        turns: the pipe.
    """
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, settings["dtype"])
    weight = (torch.randn(settings["vocabulary"], settings["width"], generator=generator) * 0.05).to(dtype)
    states = torch.randn(settings["rows"], settings["width"], generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(settings["vocabulary"], (settings["rows"],), generator=generator)
    work = {"full": full, "own": own}[settings["kind"]]
    work(states[:2], weight, targets[:2]).backward()
    states.grad = None
    turns.answer()
    turns.wait()
    forget_peak()
    loss = work(states, weight, targets)
    loss.backward()
    assert states.grad is not None, "the hidden states want a gradient"
    turns.answer(loss=float(loss), gradient=float(states.grad.double().norm()))


if __name__ == "__main__":
    pipe = Turns()
    main(json.loads(sys.argv[1]), pipe)
    pipe.wait()
