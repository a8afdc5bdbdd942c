"""Scoring with a shared prefix: many continuations of one prompt, the prompt computed once.

Twelve labels after a prompt of sixty tokens are twelve rows of sixty tokens as they stand, and one row of sixty here.
Where rows may share what they begin with (`shared_rows.py`), they are scored as the tree that they are, in which
prompts share their own beginnings too. Where something stands before a row or decides over it, and where a search goes
through many continuations (`best_continuation.py`), prompts fill a cache:

    1. The prompts of a batch, padded on the left, fill a cache; the hidden state of the last token of each prompt
       gives the log-probability of the first token of every continuation.
    2. The cache's rows are repeated, one per continuation, and the continuations, padded on the right, go on from it.

Shapes: B prompts, C continuations in all, T tokens of the longest prompt, N of the longest continuation, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.data.starts import Starts
from keeptune.engine.attention import use_attention
from keeptune.engine.book import book_of
from keeptune.engine.generation import evaluating
from keeptune.engine.head import head_of
from keeptune.engine.positions import positions_before, refuse_beyond_table
from keeptune.engine.request_parts import starting
from keeptune.engine.rotary import rotary_groups
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import POSITIONS_AT_ONCE, logprobs, token_logprobs
from keeptune.engine.shared_rows import can_share
from keeptune.models.families import FAMILIES

Group = Sequence[Scored]


def group_logprobs(
    model: PreTrainedModel, groups: Sequence[Group], *, pad: int = 0, batch_tokens: int = 8192
) -> list[list[float]]:
    """Sum of log p(tokens[t] | tokens[:t]) over t >= start, for each row of each group.

    The rows of a group begin alike; what they share, up to the first scored token, is computed once. Groups are
    batched the same way on every call.

    Args:
        model: a causal language model of a known family; what serves it now, serves every row.
        groups: rows to compare, such as the options of one question; at least one row each.
        pad: any token of the vocabulary.
        batch_tokens: bounds the tokens of a forward pass, pads and repeated prompts included at a quarter; a larger
            group is a batch of its own.

    Returns:
        For each group, in order, natural logarithms.
    """
    if can_share(model) or not can_share_prompts(model, groups):
        flat = iter(token_logprobs(model, [row for group in groups for row in group], batch_tokens))
        return [[sum(next(flat)) for _ in group] for group in groups]
    sums: list[list[float]] = [[] for _ in groups]
    for batch, prompts in prompts_of(model, groups, pad, batch_tokens):
        found = iter(prompts.sums([(place, row) for place, index in enumerate(batch) for row in groups[index]]))
        for index in batch:
            sums[index] = [next(found) for _ in groups[index]]
    return sums


def can_share_prompts(model: PreTrainedModel, groups: Sequence[Group]) -> bool:
    """Whether the cache of a prompt serves every continuation.

    `longrope` turns a token by frequencies that depend on how long its row is: then no prefix can be shared. Nor in an
    encoder-decoder, whose request is not in the cache that the answer goes on from. And where something stands behind
    the request or is decided by it, rows share no less than their whole requests.
    """
    longest = max((len(row.tokens) for group in groups for row in group), default=1)
    family = FAMILIES.get(model.config.model_type)
    if len(rotary_groups(model.config, [1, longest])) > 1 or (family and family.kind == "encoder_decoder"):
        return False
    book = book_of(model)
    if book is None or not any(slot.reads_requests for slot in book.slots.values()):
        return True
    return all((row.start, row.starts) == (_shared(group), group[0].starts) for group in groups for row in group)


def prompts_of(
    model: PreTrainedModel, groups: Sequence[Group], pad: int, batch_tokens: int, most: int | None = None
) -> Iterator[tuple[list[int], Prompts]]:
    """Batches of groups, each with its prompts computed; `most` rows of a group go on from its prompt at a time."""
    taken = positions_before(model)
    refuse_beyond_table(model, (len(row.tokens) + taken for group in groups for row in group))
    shared = [_shared(group) for group in groups]
    use_attention(model)
    with torch.inference_mode(), evaluating(model):
        for batch in _batches(groups, shared, batch_tokens, most):
            heads = [groups[index][0].tokens[: shared[index]] for index in batch]
            starts = [groups[index][0].starts for index in batch]
            prompts = Prompts(model, heads, starts, pad, 4 * batch_tokens)
            yield batch, prompts


class Prompts:
    """A batch of prompts that were read, and what may follow them.

    Args:
        model: who serves it now, serves everything.
        heads: the prompts' tokens.
        starts: where their texts and earlier answers begin.
        pad: any token of the vocabulary.
        limit: tokens in the cache, prompts repeated, of one pass over continuations.
    """

    def __init__(
        self, model: PreTrainedModel, heads: Sequence[Sequence[int]], starts: Sequence[Starts], pad: int, limit: int
    ) -> None:
        self.model, self.pad, self.limit = model, pad, limit
        self.device = model.get_input_embeddings().weight.device
        self.lengths = [len(head) for head in heads]
        tokens_BT, self.mask_BT = _padded([list(head) for head in heads], pad, left=True, device=self.device)
        said = [one.within(length) for one, length in zip(starts, self.lengths, strict=True)]
        self._starts = [Starts(one.texts, one.answers or (n,)) for one, n in zip(said, self.lengths, strict=True)]
        with starting(self._starts):
            output = model.base_model(
                input_ids=tokens_BT, attention_mask=self.mask_BT, position_ids=_positions(self.mask_BT), use_cache=True
            )
        self.last_BD: Tensor = output.last_hidden_state[:, -1]
        self._cache = output.past_key_values

    def bounds(self, rows: Sequence[tuple[int, Scored]]) -> list[float]:
        """Of each (prompt, row), the log-probability of its first token where it is scored, which bounds the sum."""
        head, parts = head_of(self.model), []
        first = torch.tensor([row.tokens[self.lengths[place]] for place, row in rows], device=self.device)
        owner = torch.tensor([place for place, _ in rows], device=self.device)
        for start in range(0, len(self.lengths), POSITIONS_AT_ONCE):
            logits = head.logits(self.last_BD[start : start + POSITIONS_AT_ONCE])
            mine = (owner >= start) & (owner < start + POSITIONS_AT_ONCE)
            place = owner[mine] - start
            parts.append(logits[place, first[mine]] - logits.logsumexp(dim=1)[place])
        found = torch.cat(parts).tolist()
        return [
            value if row.start == self.lengths[place] else 0.0 for value, (place, row) in zip(found, rows, strict=True)
        ]

    def sums(self, rows: Sequence[tuple[int, Scored]]) -> list[float]:
        """Of each (prompt, row), the sum over its scored tokens; rows of one prompt stand together."""
        found: list[float] = []
        longest = max((len(row.tokens) - self.lengths[place] for place, row in rows), default=1)
        at_once = max(1, self.limit // (max(self.lengths) + longest))
        for start in range(0, len(rows), at_once):
            found += self._sums(rows[start : start + at_once])
        return found

    def _sums(self, rows: Sequence[tuple[int, Scored]]) -> list[float]:
        owner = torch.tensor([place for place, _ in rows], device=self.device)
        tails = [list(row.tokens[self.lengths[place] :]) for place, row in rows]
        own_CN, mask_CN = _padded(tails, self.pad, left=False, device=self.device)
        ahead = own_CN.shape[1] - 1  # nothing follows the last token of a continuation, so it is not read
        # Column n predicts token n of a continuation: the prompt's last state, then the continuation's own states.
        states_CND = self.last_BD[owner][:, None]
        if ahead:
            mask = torch.cat([self.mask_BT[owner], mask_CN[:, :ahead]], dim=1)
            with self._repeated(owner) as cache, starting([self._starts[place] for place, _ in rows]):
                rest_CND = self.model.base_model(
                    input_ids=own_CN[:, :ahead],
                    attention_mask=mask,
                    position_ids=_positions(mask)[:, -ahead:],
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
            states_CND = torch.cat([states_CND, rest_CND], dim=1)
        unscored = torch.tensor([row.start - self.lengths[place] for place, row in rows], device=self.device)
        wanted = mask_CN.bool() & (torch.arange(own_CN.shape[1], device=self.device) >= unscored[:, None])
        found = torch.zeros(wanted.shape, dtype=torch.float64, device=self.device)
        found[wanted] = logprobs(head_of(self.model), states_CND[wanted], own_CN[wanted]).double()
        values: list[float] = found.sum(dim=1).tolist()
        return values

    @contextmanager
    def _repeated(self, owner: Tensor) -> Iterator[Any]:
        """Inside, the cache has a row for each continuation; behind, a row for each prompt again."""
        cache, layers = self._cache, self._cache.layers
        cache.layers = [copy.copy(layer) for layer in layers]
        cache.batch_select_indices(owner)
        try:
            yield cache
        finally:
            cache.layers = layers


def _shared(group: Group) -> int:
    """How many tokens the rows share, none of them scored; each row keeps at least one token of its own."""
    tokens = [tuple(row.tokens) for row in group]
    # In lexicographic order what the first and the last row share is shared by all between them.
    ends = zip(min(tokens), max(tokens), strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return max(1, min(alike, *(min(row.start, len(row.tokens) - 1) for row in group)))


def _batches(groups: Sequence[Group], shared: Sequence[int], limit: int, most: int | None) -> Iterator[list[int]]:
    """Groups of similar length, longest first, within the limit in both phases."""

    def tail(index: int) -> int:
        return max(len(row.tokens) for row in groups[index]) - shared[index]

    def size(index: int) -> int:
        return min(len(groups[index]), most or len(groups[index]))

    batch: list[int] = []
    widest = longest = rows = 0
    for index in sorted(range(len(groups)), key=lambda i: (-shared[i], -tail(i), i)):
        prefix, own, count = max(widest, shared[index]), max(longest, tail(index)), rows + size(index)
        # The cache holds every prompt once per continuation, which costs memory but little time.
        if batch and count * (prefix + own) > 4 * limit:
            yield batch
            batch, prefix, own, count = [], shared[index], tail(index), size(index)
        batch.append(index)
        widest, longest, rows = prefix, own, count
    if batch:
        yield batch


def _padded(rows: Sequence[list[int]], pad: int, *, left: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and mask, both (rows, longest)."""
    width = max(map(len, rows))
    blank = [width - len(row) for row in rows]
    tokens = [[pad] * n + row if left else row + [pad] * n for n, row in zip(blank, rows, strict=True)]
    real = [[0] * n + [1] * len(row) if left else [1] * len(row) + [0] * n for n, row in zip(blank, rows, strict=True)]
    return torch.tensor(tokens, device=device), torch.tensor(real, device=device)


def _positions(mask: Tensor) -> Tensor:
    """Positions that pads do not take."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
