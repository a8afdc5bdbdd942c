"""Prefixes: keys and values before those of the text, in an attention layer, for each row its own.

    joined    softmax(q [P_k; K]') [P_v; V]                               P_k, P_v: p x G x K
    gated     softmax(q K') V + tanh(g) softmax(q P_k') P_v               g: one per query head

A hook on the attention module hands them to `attention` as an argument, for this one call. So they never enter the
cache, a layer that is computed again sees them again, and a pass that no prefix serves runs the model's own attention.
Every query sees the whole prefix, in layers with a sliding window too.

Shapes: B rows of a padded batch, S segments of a packed one, N either; T tokens, H query heads, G key-value heads,
K head width, p virtual tokens of one prefix, W of the longest in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from keeptune.engine.attention import ATTENTION, READABLE, use_attention
from keeptune.engine.deltas import Delta
from keeptune.engine.places import Place, Slot
from keeptune.engine.selection import Selection

if TYPE_CHECKING:
    from keeptune.engine.book import Adapters


class Prefixed(Delta):
    """What a delta at `KeysValues` answers.

    Attributes:
        prefix_gate: `[H]`, or None for a prefix that joins the text's softmax.
    """

    prefix_gate: Tensor | None

    def keys_values(self) -> tuple[Tensor, Tensor]:
        """P_k and P_v, `[p, G, K]` each."""
        raise NotImplementedError


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


@dataclass(frozen=True)
class KeysValues(Place):
    """The keys and values of an attention layer. Its deltas are `Prefixed`; several on one row stand side by side.

    Attributes:
        cross: whether it is a decoder's attention to the encoder.
    """

    cross: bool = False

    def name_of(self, parameter: str) -> str:
        """Files name layers by number."""
        return f"{self.layer}.{'cross_' if self.cross else ''}{parameter}"

    def open(self, model: PreTrainedModel, book: Adapters) -> Slot:
        """Hooks the attention module, before and after."""
        if model.get_submodule(self.path).config._attn_implementation not in READABLE:
            use_attention(model)
        module = model.get_submodule(self.path)
        slot = PrefixSlot(book, module.config)
        slot.handles.append(module.register_forward_pre_hook(slot.before, with_kwargs=True))
        slot.handles.append(module.register_forward_hook(slot.after, always_call=True))
        return slot


class PrefixSlot(Slot):
    """The prefixes of all adapters at one attention layer, and the hooks that hand them over."""

    def __init__(self, book: Adapters, config: PreTrainedConfig) -> None:
        super().__init__(book)
        self.config = config
        self._own: str | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Gives the layer its prefixes, and keeptune's attention to read them, for this call."""
        x = args[0] if args else kwargs["hidden_states"]
        plan = [selection for selection in self.book.plan(x.shape[:-1], x.device) if selection.adapter in self.entries]
        if not plan:
            return None
        self._own = self.config._attn_implementation
        self.config._attn_implementation = ATTENTION
        return args, {**kwargs, "prefixes": self._prefixes(plan)}

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Gives the model its own attention back, also when the call failed or was cut short."""
        if self._own is not None:
            self.config._attn_implementation, self._own = self._own, None

    def _prefixes(self, plan: Sequence[Selection]) -> Prefixes:
        names = dict.fromkeys(selection.adapter for selection in plan)
        made = {name: [placed.delta.keys_values() for placed in self.entries[name]] for name in names}
        gated: list[Gated] = []
        rows: list[list[tuple[Tensor, Tensor]]] = [[] for _ in plan[0].offsets[1:]]
        for selection in plan:
            name = selection.adapter
            for (_, delta, _), (keys, values) in zip(self.entries[name], made[name], strict=True):
                if delta.prefix_gate is not None:
                    gated.append(Gated(keys, values, delta.prefix_gate, selection.tokens))
                    continue
                for row in selection.rows:
                    rows[row].append((keys, values))
        return Prefixes(*_block(rows), gated=gated)


def _block(rows: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Keys and values `[N, G, W, K]`, flush right, and where they are real `[N, W]`; None where there is nothing."""
    kinds = {tuple(id(keys) for keys, _ in row): row for row in rows}
    lengths = {kind: sum(len(keys) for keys, _ in row) for kind, row in kinds.items()}
    width = max(lengths.values())
    if not width:
        return None, None, None
    like = next(keys for row in rows for keys, _ in row)
    blocks = []
    for side in (0, 1):
        parts = [torch.cat([like[:0], *(pair[side] for pair in row)]) for row in kinds.values()]
        parts = [nn.functional.pad(part, (0, 0, 0, 0, width - len(part), 0)) for part in parts]
        blocks.append(torch.stack(parts).transpose(1, 2))
    if len(kinds) == 1:
        keys, values = (block.expand(len(rows), -1, -1, -1) for block in blocks)
        return keys, values, None
    order = list(kinds)
    index = torch.tensor([order.index(tuple(id(keys) for keys, _ in row)) for row in rows], device=like.device)
    have = torch.tensor([lengths[kind] for kind in order], device=like.device)[index]
    real = torch.arange(width, device=like.device) >= (width - have)[:, None]
    return blocks[0][index], blocks[1][index], None if bool((have == width).all()) else real
