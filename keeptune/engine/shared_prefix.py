"""Scoring with a shared prefix: many continuations of one prompt, the prompt computed once.

Twelve labels after a prompt of sixty tokens are twelve rows of sixty tokens in `scoring`, and one row of sixty here.

    1. The prompts of a batch, padded on the left, fill a cache; the hidden state of the last token of each prompt
       gives the log-probability of the first token of every continuation.
    2. The cache's rows are repeated, one per continuation, and the continuations, padded on the right, go on from it.

Shapes: B prompts, C continuations in all, T tokens of the longest prompt, N of the longest continuation, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.engine.attention import use_attention
from keeptune.engine.generation import evaluating
from keeptune.engine.head import head_of
from keeptune.engine.rotary import rotary_groups
from keeptune.engine.scoring import Scored, logprobs, token_logprobs
from keeptune.models.families import FAMILIES

Group = Sequence[Scored]


def group_logprobs(
    model: PreTrainedModel, groups: Sequence[Group], *, pad: int = 0, batch_tokens: int = 8192
) -> list[list[float]]:
    """Sum of log p(tokens[t] | tokens[:t]) over t >= start, for each row of each group.

    The rows of a group begin alike; what they share, up to the first scored token, is computed once. Groups are
    sorted by length and batched, the same way on every call.

    Args:
        model: a causal language model of a known family; what serves it now, serves every row.
        groups: rows to compare, such as the options of one question; at least one row each.
        pad: any token of the vocabulary.
        batch_tokens: bounds the tokens of a forward pass, pads and repeated prompts included at a quarter; a larger
            group is a batch of its own.

    Returns:
        For each group, in order, natural logarithms.
    """
    longest = max((len(row.tokens) for group in groups for row in group), default=1)
    family = FAMILIES.get(model.config.model_type)
    # `longrope` turns a token by frequencies that depend on how long its row is: then no prefix can be shared. Nor in
    # an encoder-decoder, whose request is not in the cache that the answer goes on from.
    if len(rotary_groups(model.config, [1, longest])) > 1 or (family is not None and family.kind == "encoder_decoder"):
        flat = iter(token_logprobs(model, [row for group in groups for row in group], batch_tokens))
        return [[sum(next(flat)) for _ in group] for group in groups]
    shared = [_shared(group) for group in groups]
    sums: list[list[float]] = [[] for _ in groups]
    use_attention(model)
    with torch.inference_mode(), evaluating(model):
        for batch in _batches(groups, shared, batch_tokens):
            found = _score(model, [groups[i] for i in batch], [shared[i] for i in batch], pad)
            for index in batch:
                sums[index] = [next(found) for _ in groups[index]]
    return sums


def _shared(group: Group) -> int:
    """How many tokens the rows share, none of them scored; each row keeps at least one token of its own."""
    tokens = [tuple(row.tokens) for row in group]
    # In lexicographic order what the first and the last row share is shared by all between them.
    ends = zip(min(tokens), max(tokens), strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return max(1, min(alike, *(min(row.start, len(row.tokens) - 1) for row in group)))


def _batches(groups: Sequence[Group], shared: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Groups of similar length, longest first, within the limit in both phases."""

    def tail(index: int) -> int:
        return max(len(row.tokens) for row in groups[index]) - shared[index]

    batch: list[int] = []
    widest = longest = rows = 0
    for index in sorted(range(len(groups)), key=lambda i: (-shared[i], -tail(i), i)):
        prefix, own, count = max(widest, shared[index]), max(longest, tail(index)), rows + len(groups[index])
        # The cache holds every prompt once per continuation, which costs memory but little time.
        if batch and count * (prefix + own) > 4 * limit:
            yield batch
            batch, prefix, own, count = [], shared[index], tail(index), len(groups[index])
        batch.append(index)
        widest, longest, rows = prefix, own, count
    if batch:
        yield batch


def _score(model: PreTrainedModel, groups: Sequence[Group], shared: Sequence[int], pad: int) -> Iterator[float]:
    device = model.get_input_embeddings().weight.device
    prompts = [list(group[0].tokens[:length]) for group, length in zip(groups, shared, strict=True)]
    tails = [(row, length) for group, length in zip(groups, shared, strict=True) for row in group]
    owner = torch.tensor([i for i, group in enumerate(groups) for _ in group], device=device)
    tokens_BT, mask_BT = _padded(prompts, pad, left=True, device=device)
    own_CN, mask_CN = _padded([list(row.tokens[length:]) for row, length in tails], pad, left=False, device=device)
    ahead = own_CN.shape[1] - 1  # nothing follows the last token of a continuation, so it is not read
    output = model.base_model(
        input_ids=tokens_BT, attention_mask=mask_BT, position_ids=_positions(mask_BT), use_cache=ahead > 0
    )
    # Column n predicts token n of a continuation: the prompt's last state, then the continuation's own states.
    states_CND = output.last_hidden_state[:, -1][owner][:, None]
    if ahead:
        cache = output.past_key_values
        cache.batch_select_indices(owner)
        mask = torch.cat([mask_BT[owner], mask_CN[:, :ahead]], dim=1)
        rest_CND = model.base_model(
            input_ids=own_CN[:, :ahead],
            attention_mask=mask,
            position_ids=_positions(mask)[:, -ahead:],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        states_CND = torch.cat([states_CND, rest_CND], dim=1)
    unscored = torch.tensor([row.start - length for row, length in tails], device=device)
    wanted = mask_CN.bool() & (torch.arange(own_CN.shape[1], device=device) >= unscored[:, None])
    found = torch.zeros(wanted.shape, dtype=torch.float64, device=device)
    found[wanted] = logprobs(head_of(model), states_CND[wanted], own_CN[wanted]).double()
    return iter(found.sum(dim=1).tolist())


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
