"""The best of many continuations of one prompt, exactly, without scoring all of them to their ends.

Every term of log p(continuation) = sum_t log p(token t | before) is at most 0, so the first term bounds the sum, and
the prompt's last state gives it for all of them. What is likeliest so far is scored; whatever is bounded below it is
not. With 77 labels a trained model rules out nearly all of them by their first tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from transformers import PreTrainedModel

from keeptune.engine.shared_prefix import Group, Prompts, can_share_prompts, group_logprobs, prompts_of

AT_ONCE = 2
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
    short = max(map(len, groups), default=0) <= 3 * AT_ONCE
    if golds is None or short or not can_share_prompts(model, groups):
        return group_logprobs(model, groups, pad=pad, batch_tokens=batch_tokens)
    sums = [[-inf] * len(group) for group in groups]
    for batch, prompts in prompts_of(model, groups, pad, batch_tokens, AT_ONCE + 1):
        _search(prompts, [groups[i] for i in batch], [sums[i] for i in batch], [golds[i] for i in batch])
    return sums


def _search(
    prompts: Prompts, groups: Sequence[Group], sums: Sequence[list[float]], golds: Sequence[int | None]
) -> None:
    """Writes the sums of a batch's rows into their places, as far as they are needed."""
    flat = iter(prompts.bounds([(place, row) for place, group in enumerate(groups) for row in group]))
    bounds = [[next(flat) for _ in group] for group in groups]
    likely = [
        sorted(range(len(own)), key=own.__getitem__, reverse=True)[:AT_ONCE] + ([] if gold is None else [gold])
        for own, gold in zip(bounds, golds, strict=True)
    ]
    _fill(prompts, groups, [list(dict.fromkeys(rows)) for rows in likely], sums)
    left = [
        [row for row, bound in enumerate(own) if found[row] == -inf and bound >= max(found) - MARGIN]
        for own, found in zip(bounds, sums, strict=True)
    ]
    _fill(prompts, groups, left, sums)


def _fill(
    prompts: Prompts, groups: Sequence[Group], chosen: Sequence[Sequence[int]], sums: Sequence[list[float]]
) -> None:
    """Writes the sums of the chosen rows of each group."""
    places = [(place, row) for place, rows in enumerate(chosen) for row in rows]
    if not places:
        return
    found = prompts.sums([(place, groups[place][row]) for place, row in places])
    for (place, row), value in zip(places, found, strict=True):
        sums[place][row] = value
