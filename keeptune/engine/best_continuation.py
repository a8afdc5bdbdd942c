"""The best of many continuations of one prompt, exactly, without scoring all of them to their ends.

Every term of log p(continuation) = sum_t log p(token t | before) is at most 0, so the first term bounds the sum. With
77 labels a trained model rules out nearly all of them by their first tokens, which the prompt's last state predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from transformers import PreTrainedModel

from keeptune.engine.scoring import Scored
from keeptune.engine.shared_prefix import Group, group_logprobs

AT_ONCE = 8
"""Continuations with the likeliest first tokens, scored before anything is ruled out."""

MARGIN = 0.5
"""Nats that a bound must lie below the best sum: far more than bfloat16 moves it in another batch."""


def best_logprobs(
    model: PreTrainedModel,
    groups: Sequence[Group],
    golds: Sequence[int | None] | None = None,
    *,
    pad: int = 0,
    batch_tokens: int = 8192,
) -> list[list[float]]:
    """As `group_logprobs`; with `golds`, what cannot be the best row of a long group is ruled out.

    Args:
        model: a causal language model of a known family; what serves it now, serves every row.
        groups: rows to compare; at least one row each.
        golds: per group the row whose sum is wanted in any case, or None; without `golds` all are.
        pad: any token of the vocabulary.
        batch_tokens: bounds the tokens of a forward pass.

    Returns:
        For each group, in order, natural logarithms; -inf for a row that was ruled out.
    """
    settings = {"pad": pad, "batch_tokens": batch_tokens}
    if golds is None or max(map(len, groups), default=0) <= 3 * AT_ONCE:
        return group_logprobs(model, groups, **settings)
    bounds = group_logprobs(model, [[_first(row) for row in group] for group in groups], **settings)
    likely = [
        sorted(range(len(own)), key=own.__getitem__, reverse=True)[:AT_ONCE] + ([] if gold is None else [gold])
        for own, gold in zip(bounds, golds, strict=True)
    ]
    sums = [[-inf] * len(group) for group in groups]
    _fill(model, groups, [list(dict.fromkeys(rows)) for rows in likely], sums, settings)
    left = [
        [row for row, bound in enumerate(own) if found[row] == -inf and bound >= max(found) - MARGIN]
        for own, found in zip(bounds, sums, strict=True)
    ]
    _fill(model, groups, left, sums, settings)
    return sums


def _first(row: Scored) -> Scored:
    """The row up to its first scored token."""
    return Scored(row.tokens[: row.start + 1], row.start)


def _fill(
    model: PreTrainedModel,
    groups: Sequence[Group],
    chosen: Sequence[Sequence[int]],
    sums: list[list[float]],
    settings: dict[str, int],
) -> None:
    """Writes the sums of the chosen rows of each group into their places."""
    numbers = [number for number, rows in enumerate(chosen) if rows]
    found = group_logprobs(model, [[groups[number][row] for row in chosen[number]] for number in numbers], **settings)
    for number, values in zip(numbers, found, strict=True):
        for row, value in zip(chosen[number], values, strict=True):
            sums[number][row] = value
