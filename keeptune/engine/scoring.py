"""Scoring: log-probabilities of given tokens, packed without padding, the head on the scored positions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.data.encode import Encoded
from keeptune.data.packing import filled
from keeptune.engine.batch import IGNORED, PackedBatch, pack
from keeptune.engine.generation import evaluating
from keeptune.engine.head import Head, head_of
from keeptune.engine.packed import packed_hidden
from keeptune.engine.positions import positions_before, refuse_beyond_table
from keeptune.engine.scored import Scored
from keeptune.engine.selection import Stack
from keeptune.engine.shared_rows import can_share, pack_shared

POSITIONS_AT_ONCE = 256
"""Rows of one block of logits: few enough to stay near the processor, enough to read the head's weights seldom."""


def token_logprobs(
    model: PreTrainedModel,
    rows: Sequence[Scored],
    batch_tokens: int = 8192,
    adapters: Sequence[Stack | None] | None = None,
) -> list[list[float]]:
    """The natural logarithm of p(tokens[t] | tokens[:t]) for every t >= start of each row.

    Rows are packed in the order given, so the same call makes the same batches and the same numbers. What rows of a
    batch begin with, up to the first scored token, is computed once.

    Args:
        model: a causal language model of a known family.
        rows: what to score.
        batch_tokens: tokens of a packed batch; a longer row is a batch of its own.
        adapters: who serves each row (None is the base); without it, who serves now.

    Returns:
        For each row, in order, its logarithms (computed in float32).
    """
    return list(_over_batches(model, rows, batch_tokens, adapters, logprobs))


def greedy_logprobs(
    model: PreTrainedModel, rows: Sequence[Scored], batch_tokens: int = 8192
) -> list[tuple[float, bool]]:
    """Of each row, the sum of `token_logprobs`, and whether greedy decoding would have written all its scored tokens.

    Arguments and batches as there; who serves now, serves every row.
    """
    found = _over_batches(model, rows, batch_tokens, None, _with_greatest)
    return [(sum(value for value, _ in own), all(greatest for _, greatest in own)) for own in found]


def _over_batches(
    model: PreTrainedModel,
    rows: Sequence[Scored],
    batch_tokens: int,
    adapters: Sequence[Stack | None] | None,
    read: Callable[[Head, Tensor, Tensor], Tensor],
) -> Iterator[list[Any]]:
    """What `read` says of (head, states, targets), row by row."""
    assert all(1 <= row.start <= len(row.tokens) for row in rows), "a scored token has a token before it"
    named = [None] * len(rows) if adapters is None else [stack or () for stack in adapters]
    taken = {stack: positions_before(model, stack) for stack in set(named)}
    refuse_beyond_table(model, (len(row.tokens) + taken[stack] for row, stack in zip(rows, named, strict=True)))
    head = head_of(model)
    with torch.inference_mode(), evaluating(model):
        packing = pack_shared if can_share(model) else pack
        for batch in filled(enumerate(len(row.tokens) for row in rows), batch_tokens):
            encoded = [_encoded(rows[row], place) for place, row in enumerate(batch)]
            packed = packing(encoded, adapters=None if adapters is None else [adapters[row] for row in batch])
            wanted = (packed.targets != IGNORED).nonzero()[:, 0]
            hidden = packed_hidden(model, packed.read_at(wanted))
            places = wanted.to(hidden.device)
            found = read(head, hidden[places], packed.targets[wanted].to(hidden.device))
            yield from _in_order(found.cpu(), packed, [len(rows[row].tokens) - rows[row].start for row in batch])


def _in_order(found: Tensor, packed: PackedBatch, counts: Sequence[int]) -> Iterator[list[Any]]:
    """What was found, row by row in the order given; in the batch, rows that begin alike stand together."""
    shared = set(packed.parents or ())
    order = [int(name) for segment, name in enumerate(packed.ids) if segment not in shared]
    parts = torch.split(found, [counts[place] for place in order])
    for _, part in sorted(zip(order, parts, strict=True), key=lambda pair: pair[0]):
        yield part.tolist()


def _with_greatest(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    """(N, 2): log p of the targets, and 1 where they have the greatest logit."""
    parts = [hidden.new_zeros((0, 2), dtype=torch.float32)]
    blocks = zip(torch.split(hidden, POSITIONS_AT_ONCE), torch.split(targets, POSITIONS_AT_ONCE), strict=True)
    for states, wanted in blocks:
        logits = head.logits(states)
        values = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1)
        parts.append(torch.stack([values.float(), (logits.argmax(dim=1) == wanted).float()], dim=1))
    return torch.cat(parts)


def logprobs(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    """(N,): log softmax of the logits of hidden states (N, D) at their targets (N,), block by block."""
    parts = []
    blocks = zip(torch.split(hidden, POSITIONS_AT_ONCE), torch.split(targets, POSITIONS_AT_ONCE), strict=True)
    for states, wanted in blocks:
        logits = head.logits(states)
        parts.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1))
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _encoded(row: Scored, place: int) -> Encoded:
    """The row, named by its place."""
    learned = tuple(at >= row.start for at in range(len(row.tokens)))
    return Encoded(id=str(place), source="", tokens=tuple(row.tokens), learned=learned, starts=row.starts)
