"""Scikit-learn's digits as training, dev and test rows of labels, upright or with ink and paper exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch

from keeptune.data.encode import Encoded
from keeptune.engine.batch import pack
from keeptune.engine.generation import evaluating
from keeptune.engine.readout import answers
from keeptune.models.load import Loaded

TRAIN, DEV = 900, 297
PIXELS, TOP = 64, 16
WIDTH = 48


class Parts(NamedTuple):
    """Disjoint rows."""

    train: tuple[Encoded, ...]
    dev: tuple[Encoded, ...]
    test: tuple[Encoded, ...]


@cache
def parts(labels: str, *, inverted: bool = False) -> Parts:
    """The digits that `labels` names. The cut into parts is the same for all seeds: 900, 297 and 600 of 1,797."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0)).tolist()
    made = []
    for place in order:
        levels = [round(255 * value / TOP) for value in digits.images[place].ravel().tolist()]
        tokens = tuple(255 - level for level in levels) if inverted else tuple(levels)
        made.append(Encoded(str(place), "task", tokens, (False,) * PIXELS, str(digits.target[place])))
    cut = made[:TRAIN], made[TRAIN : TRAIN + DEV], made[TRAIN + DEV :]
    return Parts(*(tuple(row for row in part if row.answer in labels) for part in cut))


def drawn(rows: Sequence[Encoded], each: int, seed: int) -> list[Encoded]:
    """`each` rows of every label."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    found: list[Encoded] = []
    for label in sorted({str(row.answer) for row in rows}):
        own = [rows[place] for place in order if rows[place].answer == label]
        found += [replace(row, source="task") for row in own[:each]]
    return found


def accuracy(loaded: Loaded, rows: Sequence[Encoded]) -> float:
    """Share of rows whose label has the greatest score."""
    right = 0
    with torch.inference_mode(), evaluating(loaded.model):
        for start in range(0, len(rows), 150):
            chosen = rows[start : start + 150]
            for row, (scores, labels) in zip(chosen, answers(loaded.model, pack(chosen)), strict=True):
                right += labels[int(scores.argmax())] == row.answer
    return right / len(rows)
