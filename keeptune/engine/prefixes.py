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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from keeptune.engine.attention import ATTENTION, READABLE, use_attention
from keeptune.engine.deltas import Delta
from keeptune.engine.layer_prefixes import Gated, Prefixes
from keeptune.engine.places import Book, Place, Slot
from keeptune.engine.selection import Selection


class Prefixed(Delta):
    """What a delta at `KeysValues` answers.

    Attributes:
        prefix_gate: `[H]`, or None for a prefix that joins the text's softmax.
    """

    prefix_gate: Tensor | None

    def keys_values(self) -> tuple[Tensor, Tensor]:
        """P_k and P_v, `[p, G, K]` each."""
        raise NotImplementedError


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

    def open(self, model: PreTrainedModel, book: Book) -> Slot:
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

    def __init__(self, book: Book, config: PreTrainedConfig) -> None:
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
