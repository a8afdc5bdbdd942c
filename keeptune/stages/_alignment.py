"""Gradient alignment: how much of what a batch teaches is the form of its answers (ProMoT, arXiv:2211.00635).

    cos(g(x, y), g(x, permuted y))

The gradient of permuted answers can only teach their form, for they say nothing of x. A high cosine early in training
that falls later says that the form is learned first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded
    from keeptune.stages._step import Objective


def alignment(objective: Objective, rows: Sequence[Encoded]) -> float:
    """The cosine on one global batch; 0 where one of the two gradients is.

    Holds a second copy of the gradients meanwhile; leaves none behind.
    """
    masters = objective.masters
    with masters.unremembered():
        objective.backward(rows)
        true = [None if master.grad is None else master.grad.clone() for _, master in masters.named]
        objective.backward(permuted(rows))
    dot = norm_true = norm_form = torch.zeros((), dtype=torch.float64)
    for gradient, (_, master) in zip(true, masters.named, strict=True):
        if gradient is not None and master.grad is not None:
            dot = dot + (gradient * master.grad).sum().double().cpu()
            norm_true = norm_true + gradient.square().sum().double().cpu()
            norm_form = norm_form + master.grad.square().sum().double().cpu()
    masters.drop_gradients()
    scale = float((norm_true * norm_form).sqrt())
    return float(dot) / scale if scale else 0.0


def permuted(rows: Sequence[Encoded]) -> list[Encoded]:
    """Every row with the answer of another one: answers of different text are dealt out in a cycle.

    A row is its context and then what is learned; rows are ordered by their answers and each takes the one half the
    rows further on, so that few keep an equal answer even where some labels are frequent.
    """
    order = sorted(range(len(rows)), key=lambda place: (_answer(rows[place]), place))
    given = {place: rows[order[(number + len(rows) // 2) % len(rows)]] for number, place in enumerate(order)}
    return [_with_answer(row, given[place]) for place, row in enumerate(rows)]


def _start(row: Encoded) -> int:
    return row.learned.index(True) if any(row.learned) else len(row.tokens)


def _answer(row: Encoded) -> tuple[int, ...]:
    return tuple(row.tokens[_start(row) :])


def _with_answer(row: Encoded, other: Encoded) -> Encoded:
    start, begin = _start(row), _start(other)
    tokens, learned = row.tokens[:start] + other.tokens[begin:], row.learned[:start] + other.learned[begin:]
    return replace(row, tokens=tokens, learned=learned, answer=other.answer)
