"""Positions: what stands before the text without being in it moves the text's positions on.

A prefix of p keys takes the positions 0 to p - 1, as in the papers' code, where it is a filled cache; the text begins
at p. Each row is moved by the prefixes that serve it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.core.errors import DataError
from keeptune.core.shape import ModelShape
from keeptune.engine.deltas import Delta
from keeptune.engine.places import Book, Place, Slot
from keeptune.engine.segments import current_segments
from keeptune.models.families import FAMILIES
from keeptune.models.family import PositionRule


def table_of(model: PreTrainedModel) -> int | None:
    """Tokens that a table of learned positions holds; None where positions are computed, so that none is the last."""
    family = FAMILIES.get(model.config.model_type)
    if family is None or family.kind not in ("decoder", "encoder"):
        return None
    rows = ModelShape.from_config(model.config.to_dict()).positions
    return rows - UsualPositions.of(model).first if rows else None


def positions_before(model: PreTrainedModel, names: Sequence[str] | None = None) -> int:
    """Positions of such a table that a stack of adapters takes beside a text; unset: the most of those that serve."""
    book: Any = model._modules.get("keeptune")
    if book is None or table_of(model) is None:
        return 0
    serving = [book.serving.shared or ()] if book.serving.stacks is None else book.serving.stacks
    return max(map(book.room, serving if names is None else [tuple(names)]), default=0)


def refuse_beyond_table(model: PreTrainedModel, lengths: Iterable[int]) -> None:
    """Refuses a text longer than the table of learned positions: the model cannot read it.

    Raises:
        DataError: E-DATA-LONG.
    """
    table, longest = table_of(model), max(lengths, default=0)
    if table is not None and longest > table:
        raise DataError(
            f"a text has {longest:,} tokens, virtual ones counted, and the model has {table:,} learned positions.",
            code="E-DATA-LONG", fix="Shorten it or leave it out, or take a model with a longer context.",
        )  # fmt: skip


class Room(Delta):
    """Positions that are taken before the text."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room


@dataclass(frozen=True)
class Positions(Place):
    """The positions that the model's body is given. Its deltas move them on by their `room`."""

    def open(self, model: PreTrainedModel, book: Book) -> Slot:
        """Hooks the body before its forward pass."""
        slot = PositionSlot(book)
        slot.usual = UsualPositions.of(model)
        body = model.get_submodule(self.path)
        slot.arguments = list(inspect.signature(body.forward).parameters)
        slot.handles.append(body.register_forward_pre_hook(slot.before, with_kwargs=True))
        return slot


class PositionSlot(Slot):
    """The hook of `Positions`."""

    def __init__(self, book: Book) -> None:
        super().__init__(book)
        self.arguments: list[str] = []
        self.usual = UsualPositions()

    def before(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Moves the positions of each row."""
        given = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        source = given["inputs_embeds"] if given.get("input_ids") is None else given["input_ids"]
        packed = current_segments()
        rows = source.shape[0] if packed is None else len(packed.offsets) - 1
        stacks = self.book.serving.stack_of_rows(rows)
        moves = [sum(p.delta.room for name in stack for p in self.entries.get(name, ())) for stack in stacks]
        if not any(moves):
            return None
        moved = torch.tensor(moves, device=source.device)
        if packed is None:
            moved = moved[:, None]
        else:
            lengths = torch.tensor(packed.offsets, device=source.device).diff()
            moved = torch.repeat_interleave(moved, lengths)[None]
        given["position_ids"] = self.usual(given, source) + moved
        return (), given


@dataclass(frozen=True)
class UsualPositions:
    """The positions that a body takes by itself.

    Attributes:
        rule: as `keeptune.models.family.PositionRule`.
        first: that of a text's first token.
    """

    rule: PositionRule = "counted"
    first: int = 0

    @classmethod
    def of(cls, model: PreTrainedModel) -> UsualPositions:
        """Those of a model."""
        family = FAMILIES.get(model.config.model_type)
        rule = (family.positions if family else None) or "plain"
        return cls(rule, (model.config.pad_token_id or 0) + 1 if rule == "offset" else 0)

    def __call__(self, given: dict[str, Any], source: Tensor) -> Tensor:
        """`[B, T]`: as given, or by the rule, cached tokens included.

        Args:
            given: the arguments of the body.
            source: `[B, T, ...]`, its tokens or their embeddings.
        """
        positions: Tensor | None = given.get("position_ids")
        rows, tokens = source.shape[:2]
        if positions is not None:
            return positions.expand(rows, -1)
        cache = given.get("past_key_values")
        mask: Tensor | None = given.get("attention_mask")
        past = 0 if cache is None else cache.get_seq_length()
        if self.rule == "offset" and mask is None and given.get("input_ids") is not None:
            mask = given["input_ids"] != self.first - 1
        if self.rule == "plain" or mask is None or mask.ndim != 2:
            return torch.arange(past, past + tokens, device=source.device).expand(rows, -1) + self.first
        counted = mask.long().cumsum(dim=1) - 1 + self.first
        return counted.clamp(min=0)[:, -tokens:]

    def beside_pads(self, given: dict[str, Any], source: Tensor, chosen: Tensor) -> Tensor:
        """The same, but that `chosen` rows `[B, 1]` count no pads before their text, as BERT does by itself."""
        positions = self(given, source)
        if self.rule != "plain" or given.get("position_ids") is not None:
            return positions
        pads: Tensor = given["attention_mask"].argmax(dim=1, keepdim=True)
        return (positions - pads * chosen).clamp(min=self.first)
