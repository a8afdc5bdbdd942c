"""One attention function for every model: packed segments without padding, or padded rows with a mask.

transformers calls it through its attention registry. The contract:

- *Segments.* Inside `segments(offsets)` the batch has the shape (1, T) and holds S rows one after the other. Row s owns
  the tokens offsets[s] to offsets[s + 1]; it attends to its own past alone (a layer that is not causal: to all of
  itself), within the layer's sliding window, with the layer's scale, grouped heads and soft cap. Positions are the
  caller's: they restart at each row.
  Plain causal rows go to the back end that suits the device: one kernel for rows of all lengths on a GPU (`varlen`),
  a gradient by matrix products for bfloat16 on a processor (`causal_rows`), else SDPA for each run of equal lengths. A
  mask over the whole batch is never made.
- *Padded rows.* Outside it the call is transformers' own SDPA with the mask that transformers builds, which is
  right for left and right padding and for more keys than queries (a cache). A soft cap, which SDPA lacks, is
  computed here, and a single new token in 16 bits on a processor goes to `single_query`.
- *Prefixes.* Keys and values of a prefix, shared or per row (`prefixes.py`), arrive as an argument, join here and
  never enter the cache. Such a call always builds its mask, since the causal flag of SDPA aligns the triangle to the
  top left. It reads the masks of SDPA (boolean) and of eager attention (additive) alike. A bias that depends on the
  distance (T5) says nothing about a prefix key, which has no position: there it is 0.

The mask function returns the `Segments` themselves as "the mask". They reach this function as an argument and not
through the context, so a layer that is recomputed in the backward pass (gradient checkpointing) still sees them.

Shapes: B batch, H heads, T tokens, K head width, N rows of equal length, L their length.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine import causal_rows, single_query, varlen
from keeptune.engine.matrix_gradient import attend, worthwhile
from keeptune.engine.segments import Segments, causal_band, current_segments
from keeptune.models.anatomy import anatomy_of

if TYPE_CHECKING:
    from keeptune.engine.layer_prefixes import Prefixes

ATTENTION = "keeptune"
READABLE = (ATTENTION, "sdpa", "eager")
"""The implementations whose masks this file reads."""

# For plain causal rows, tried in this order; each has `suits` and `attend_rows`. Otherwise rows go through SDPA.
BACK_ENDS = (varlen, causal_rows)

# Arguments by which a layer would change what attention means; each is refused instead of ignored.
UNSUPPORTED = {"s_aux": "attention sinks", "cache": "a paged cache"}


def use_attention(model: PreTrainedModel) -> None:
    """Makes `model` call the attention of this file; padded outputs stay bitwise what they were.

    But for a single new token in 16 bits on a processor (`single_query`).

    Raises:
        PlanError: a family that is not verified (E-MODEL-FAMILY, E-MODEL-MOE, E-MODEL-ATTENTION).
    """
    if model.config._attn_implementation != ATTENTION:
        anatomy_of(model)
        model.set_attn_implementation(ATTENTION)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Segments | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    prefixes: Prefixes | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls: causal where the layer is, else to every token of the row.

    Args:
        module: the attention layer.
        query: (B, H, T, K).
        key: (B, Hkv, Tk, K) with Hkv dividing H.
        value: (B, Hkv, Tk, K).
        attention_mask: what `attention_mask` returned for this forward pass.
        scaling: factor on the scores; K ** -0.5 when None.
        dropout: probability that an attention weight is dropped.
        softcap: c in c * tanh(score / c).
        sliding_window: a token sees itself and the `sliding_window - 1` tokens before it (and behind it).
        prefixes: keys and values before those of the rows; every token of the row sees them.
        extra: further arguments of the layer.

    Returns:
        (B, T, H, K), and no weights.

    Raises:
        PlanError: the layer uses attention sinks, a paged cache, or in a packed batch a position bias
            (E-MODEL-ATTENTION).
    """
    for name, meaning in UNSUPPORTED.items():
        if extra.get(name) is not None:
            raise PlanError(f"{type(module).__name__} uses {meaning} ('{name}').", code="E-MODEL-ATTENTION")
    settings: dict[str, Any] = {"scaling": scaling, "dropout": dropout}
    bias: Tensor | None = extra.get("position_bias")
    if isinstance(attention_mask, Segments):
        if bias is not None:
            raise PlanError("a packed batch has no room for a position bias.", code="E-MODEL-ATTENTION")
        settings |= {"window": sliding_window, "softcap": softcap, "prefixes": prefixes, "causal": is_causal(module)}
        output = _packed(query, key, value, attention_mask, **settings)
    else:
        if prefixes is not None and prefixes.joins:
            seen = unmasked(module, query, key) if attention_mask is None else attention_mask
            text = key.shape[2]
            key, value, attention_mask = prefixes.join(key, value, seen)
            if bias is not None:
                extra["position_bias"] = functional.pad(bias, (key.shape[2] - text, 0))
        if softcap is None and bias is None and single_query.suits(query, dropout):
            output = single_query.attend_one(query, key, value, attention_mask, scaling)
        elif softcap is None:
            sdpa: Callable[..., tuple[Tensor, None]] = AttentionInterface()["sdpa"]
            extra["sliding_window"] = sliding_window
            output, _ = sdpa(module, query, key, value, attention_mask, **settings, **extra)
        else:
            seen = unmasked(module, query, key) if attention_mask is None else attention_mask
            key, value = _per_query_head(query, key, value)
            output = _capped(query, key, value, seen, softcap=softcap, **settings).transpose(1, 2).contiguous()
    if prefixes is not None:
        output = prefixes.add_gated(query, output, scaling, softcap)
    return output, None


def attention_mask(*args: Any, **kwargs: Any) -> Tensor | Segments | None:
    """The mask of one forward pass: the current segments, or what transformers' SDPA would be given."""
    return current_segments() or AttentionMaskInterface()["sdpa"](*args, **kwargs)


def is_causal(module: nn.Module) -> bool:
    """Whether a token of this layer sees its own past alone."""
    return bool(getattr(module, "is_causal", True))


def unmasked(module: nn.Module, query: Tensor, key: Tensor) -> Tensor:
    """Boolean (T, Tk): what no mask means. A single query comes last and sees every key."""
    queries, keys = query.shape[2], key.shape[2]
    if queries == 1 or not is_causal(module):
        return torch.ones(queries, keys, dtype=torch.bool, device=query.device)
    return causal_band(queries, keys, None, query.device)


def _packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: Segments,
    *,
    window: int | None,
    softcap: float | None,
    scaling: float | None,
    dropout: float,
    prefixes: Prefixes | None,
    causal: bool,
) -> Tensor:
    """Each row alone: (1, H, T, K) to (1, T, H, K), one kernel call per run of equal lengths."""
    total = packed.offsets[-1]
    assert query.shape[0] == 1, "a packed batch has one row"
    assert query.shape[2] == key.shape[2] == total, f"the segments hold {total} tokens, the batch {query.shape[2]}"
    kernel = partial(_kernel, softcap=softcap, scaling=scaling, dropout=dropout, causal=causal)
    assert packed.parents is None or (prefixes is None and causal), "a tree is causal, and has no prefixes"
    if prefixes is None and softcap is None and causal:
        rows = [x.squeeze(0).transpose(0, 1) for x in (query, key, value)]
        for back_end in BACK_ENDS:
            if back_end.suits(rows[0], packed, window, dropout):
                output: Tensor = back_end.attend_rows(*rows, packed, window, scaling)
                return output[None]
    if packed.parents is not None:
        return _tree(query, key, value, packed, window, kernel)
    runs = packed.runs()
    joined = _of_runs(prefixes, packed, runs)
    sizes = [length * number for length, number in runs]
    parts = []
    # One split, not one slice per run: the gradient of a slice is as large as the whole batch.
    split = (torch.split(x, sizes, 2) for x in (query, key, value))
    for (length, number), prefix, *states in zip(runs, joined, *split, strict=True):
        q, k, v = (x.squeeze(0).view(-1, number, length, x.shape[-1]).transpose(0, 1) for x in states)
        beyond = window is not None and window < length
        masked = beyond or prefix is not None or (softcap is not None and causal)
        mask = packed.band(length, window, q.device, causal=causal) if masked else None
        if prefix is not None and mask is not None:
            k, v, mask = prefix.join(k, v, mask)
        parts.append(kernel(q, *_per_query_head(q, k, v), mask).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).unsqueeze(0)


def _tree(
    query: Tensor, key: Tensor, value: Tensor, packed: Segments, window: int | None, kernel: Callable[..., Tensor]
) -> Tensor:
    """Each segment behind the segments of its row that come before it; what rows share is read, not computed again."""
    sizes = [end - start for start, end in itertools.pairwise(packed.offsets)]
    queries, keys, values = (torch.split(x, sizes, 2) for x in (query, key, value))
    parts = []
    for segment, q in enumerate(queries):
        path = packed.path(segment)
        k, v = (torch.cat([x[place] for place in path], dim=2) for x in (keys, values))
        mask = None
        if len(path) > 1 or (window is not None and window < q.shape[2]):
            mask = packed.behind(q.shape[2], k.shape[2], window, q.device)
        parts.append(kernel(q, *_per_query_head(q, k, v), mask).transpose(1, 2).squeeze(0))
    return torch.cat(parts).unsqueeze(0)


def _kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    softcap: float | None,
    scaling: float | None,
    dropout: float,
    causal: bool,
) -> Tensor:
    """(N, H, L, K): attention of rows of one length, over the True places of the mask or, without one, causal."""
    if softcap is not None:
        if mask is None and causal:
            mask = causal_band(q.shape[2], k.shape[2], None, q.device)
        return _capped(q, k, v, mask, softcap=softcap, scaling=scaling, dropout=dropout)
    if causal and worthwhile(q, dropout):
        return attend(q, k, v, mask, scaling)
    return functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and mask is None, dropout_p=dropout, scale=scaling
    )


def _of_runs(prefixes: Prefixes | None, packed: Segments, runs: Sequence[tuple[int, int]]) -> Sequence[Prefixes | None]:
    """The joined prefixes of each run's rows; `runs` leaves empty rows out."""
    if prefixes is None or prefixes.keys is None:
        return [None] * len(runs)
    filled = [row for row, (start, end) in enumerate(itertools.pairwise(packed.offsets)) if start < end]
    rows = torch.tensor(filled, device=prefixes.keys.device)
    return [prefixes.of_rows(part) for part in torch.split(rows, [number for _, number in runs])]


def _per_query_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values repeated for each query head: head h reads group h // (H / Hkv)."""
    share = query.shape[1] // key.shape[1]
    if share == 1:
        return key, value
    return key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    softcap: float,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """softmax(c tanh(scale q k / c), masked) v (Gemma 2), in transformers' order of operations, so both round alike."""
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        additive = mask.dtype != torch.bool
        scores = scores + mask if additive else scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return functional.dropout(weights, dropout) @ value


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, attention_mask)
