"""The prefixes of one attention layer in one forward pass, as attention is given them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Gated(NamedTuple):
    """A prefix with a softmax of its own, and the flattened tokens that it serves (None: all)."""

    keys: Tensor
    values: Tensor
    gate: Tensor
    tokens: Tensor | None


@dataclass(frozen=True)
class Prefixes:
    """The prefixes of one attention layer in one forward pass.

    Attributes:
        keys: `[N, G, W, K]` of the joined ones, or None.
        values: alike.
        real: `[N, W]`: where a row has a prefix key; None: everywhere.
        gated: those with a softmax of their own.
    """

    keys: Tensor | None = None
    values: Tensor | None = None
    real: Tensor | None = None
    gated: Sequence[Gated] = field(default=())

    @property
    def joins(self) -> bool:
        """Whether any prefix joins the text's softmax."""
        return self.keys is not None

    def of_rows(self, rows: Tensor) -> Prefixes:
        """The joined prefixes of some rows."""
        if self.keys is None or self.values is None:
            return self
        return Prefixes(self.keys[rows], self.values[rows], None if self.real is None else self.real[rows])

    def join(self, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and mask with W more columns in front.

        Args:
            key: `[N, G, Tk, K]`.
            value: alike.
            mask: `[T, Tk]` or `[N or 1, 1, T, Tk]`, True or 0 where a query sees a key.
        """
        assert self.keys is not None, "there is a prefix"
        assert self.values is not None, "keys come with values"
        width, mask = self.keys.shape[2], mask if mask.ndim == 4 else mask[None, None]
        if self.real is None:
            front = torch.ones(1, 1, 1, width, dtype=torch.bool, device=mask.device)
        else:
            front = self.real.to(mask.device)[:, None, None, :]
        shape = (max(len(front), len(mask)), *mask.shape[1:-1])
        if mask.dtype != torch.bool:
            front = torch.zeros_like(front, dtype=mask.dtype).masked_fill(~front, torch.finfo(mask.dtype).min)
        seen = torch.cat([front.expand(*shape, width), mask.expand(*shape, mask.shape[-1])], dim=-1)
        return torch.cat([self.keys.to(key), key], dim=2), torch.cat([self.values.to(value), value], dim=2), seen

    def add_gated(self, query: Tensor, output: Tensor, scaling: float | None, softcap: float | None) -> Tensor:
        """`output [B, T, H, K]` with what the gated prefixes add for `query [B, H, T, K]`.

        No query sees another's keys here, so rows and segments are tokens alike.
        """
        flat = output.flatten(0, 1)
        for prefix in self.gated:
            queries = query.transpose(1, 2).flatten(0, 1)
            queries = queries if prefix.tokens is None else queries[prefix.tokens]
            change = _read(queries, prefix, scaling, softcap)
            flat = flat + change if prefix.tokens is None else flat.index_add(0, prefix.tokens, change)
        return flat.view_as(output)


def _read(queries: Tensor, prefix: Gated, scaling: float | None, softcap: float | None) -> Tensor:
    """tanh(g) softmax(s q P_k') P_v, `[n, H, K]`, for n queries `[n, H, K]`."""
    share = queries.shape[1] // prefix.keys.shape[1]
    keys, values = (x.to(queries).repeat_interleave(share, dim=1) for x in (prefix.keys, prefix.values))
    scores = torch.einsum("nhk,phk->nhp", queries, keys) * (queries.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(queries.dtype)
    return torch.einsum("nhp,phk->nhk", weights, values) * prefix.gate.tanh().to(queries)[:, None]
