"""Decisions: one gate per row and layer, made from a row's prompt before anything is computed, and then kept.

    a = policy(mean of the prompt's embeddings),    h <- h + a_row,layer * dh    (`deltas.Gate`)

What the prompt is, `request_parts.py` says: in a conversation the first request, for all of its turns. The answer is
never looked at, so training decides as generation does.

While a row is being written its decisions must stay, or the keys in its cache would come from two different models.
They travel in the cache, as a layer of their own: whatever selects, repeats or reorders the cache's rows does the same
to them.

Shapes: B rows, T tokens, D width, L layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.cache_notes import CacheNote
from keeptune.engine.deltas import Delta
from keeptune.engine.places import Book, Place, Slot
from keeptune.engine.request_parts import RequestEnds, answered, first_answer
from keeptune.engine.segments import current_segments
from keeptune.engine.selection import Serving

if TYPE_CHECKING:
    from keeptune.engine.batch import PackedBatch

INPUTS = ("input_ids", "inputs_embeds", "pixel_values")


class Decider(Delta):
    """What decides: a policy."""

    def decide(self, pooled: Tensor) -> Tensor:
        """The gates `[B, L]` of rows whose prompts have the mean embedding `pooled [B, D]`, float32."""
        raise NotImplementedError


@dataclass(frozen=True)
class Decisions(Place):
    """Before the body. Its deltas are `Decider`s; their gates serve the other deltas of the same adapter."""

    def name_of(self, parameter: str) -> str:
        """An adapter has one policy."""
        return f"policy.{parameter}"

    def open(self, model: PreTrainedModel, book: Book) -> Slot:
        """Hooks the body before all that changes its input, and the model, whose labels say where answers begin."""
        body = model.get_submodule(self.path)
        slot = DecisionSlot(book, model.get_input_embeddings(), inspect.signature(body.forward))
        slot.handles += slot.ends.listen(model)
        slot.handles.append(body.register_forward_pre_hook(slot.before, with_kwargs=True, prepend=True))
        slot.handles.append(body.register_forward_hook(slot.after, always_call=True))
        return slot


class Decided(CacheNote):
    """The decisions of a cache's rows: gates `[B, L]` by adapter."""

    def __init__(self, cache: Any, gates: Mapping[str, Tensor]) -> None:
        super().__init__(cache)
        self.gates = dict(gates)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Rows that are kept, or copied, keep their decisions."""
        self.gates = {name: gates[indices.to(gates.device)] for name, gates in self.gates.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Copies of a row share its decisions."""
        self.gates = {name: gates.repeat_interleave(repeats, dim=0) for name, gates in self.gates.items()}


class DecisionSlot(Slot):
    """The policies of all adapters, and the hooks around a forward pass."""

    def __init__(self, book: Book, embedding: Any, signature: inspect.Signature) -> None:
        super().__init__(book)
        self.embedding, self.arguments = embedding, list(signature.parameters)
        self.ends = RequestEnds()
        self._inside: list[tuple[AbstractContextManager[None] | None, dict[str, Tensor]]] = []

    @property
    def reads_requests(self) -> bool:
        """Policies decide by them."""
        return True

    def packed(self, batch: PackedBatch) -> Serving:
        """Who serves a packed batch, its decisions made."""
        row = batch.segment_of()
        ends = [start + first_answer(one) for start, one in zip(batch.offsets, answered(batch), strict=False)]
        prompt = torch.arange(len(row), device=row.device) < torch.tensor(ends, device=row.device)[row]
        pooled = _mean(self._embedded(batch.tokens[prompt]), row[prompt], len(batch.lengths))
        return self.book.serving.with_gates(self._decide(self._undecided(len(batch.lengths)), pooled))

    def before(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Decides for a padded batch, or takes up what was decided when its cache was begun."""
        given = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        source = next(given[key] for key in INPUTS if given.get(key) is not None)
        segments = current_segments()
        rows = source.shape[0] if segments is None else len(segments.offsets) - 1
        wanted = self._undecided(rows)
        cache, found = given.get("past_key_values"), {}
        if wanted and segments is not None:
            raise PlanError(
                "a policy serves a segment of this packed batch, but nothing was decided for it.",
                code="E-DECISION-PACKED",
                fix="Run packed batches through `keeptune.engine.packed.packed_hidden`.",
            )
        if wanted and cache is not None and cache.get_seq_length():
            found = _held(cache, wanted, rows)
        elif wanted:
            found = self._decide(wanted, self._pooled(given, source))
        context = self.book.serve(self.book.serving.with_gates(found)) if found else None
        if context is not None:
            context.__enter__()
        self._inside.append((context, found))

    def after(self, body: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Leaves the decisions in the cache, also when the pass was cut short."""
        context, found = self._inside.pop() if self._inside else (None, {})  # nothing, when `before` itself refused
        if context is not None:
            context.__exit__(None, None, None)
        layers = getattr(getattr(output, "past_key_values", None), "layers", None)
        if layers and found and not any(isinstance(layer, Decided) for layer in layers):
            detached = {name: gates.detach() for name, gates in found.items()}
            layers.append(Decided(output.past_key_values, detached))

    def _undecided(self, count: int) -> dict[str, list[int]]:
        """The rows that each policy is to decide for; gates that somebody set are not decided again."""
        wanted: dict[str, list[int]] = {}
        for row, stack in enumerate(self.book.serving.stack_of_rows(count)):
            for name in stack:
                if name in self.entries and name not in self.book.serving.gates:
                    wanted.setdefault(name, []).append(row)
        return wanted

    def _decide(self, wanted: Mapping[str, Sequence[int]], pooled: Tensor) -> dict[str, Tensor]:
        """Gates `[B, L]` by adapter; rows that an adapter does not serve have ones."""
        found = {}
        for name, rows in wanted.items():
            index = torch.tensor(rows, device=pooled.device)
            gates = self.entries[name][0].delta.decide(pooled[index])
            found[name] = gates.new_ones(len(pooled), gates.shape[1]).index_copy(0, index, gates)
        return found

    @torch.no_grad()
    def _embedded(self, tokens: Tensor) -> Tensor:
        """The base's own rows, whatever adapters make of them."""
        return functional.embedding(tokens, self.embedding.weight)

    @torch.no_grad()
    def _pooled(self, given: Mapping[str, Any], source: Tensor) -> Tensor:
        """`[B, D]`: the mean embedding of each row's prompt, or of the patches of its image."""
        if given.get("pixel_values") is not None:
            patches: Tensor = self.embedding.forward(source)  # past the hooks, so past whatever adapters make of it
            return patches.float().mean(dim=1)
        embedded = self._embedded(source) if given.get("input_ids") is not None else source
        rows, width = embedded.shape[:2]
        mask: Tensor | None = given.get("attention_mask")
        real = torch.ones(rows, width, dtype=torch.bool, device=embedded.device)
        if mask is not None and mask.ndim == 2:
            real = mask[:, -width:].bool()
        ends = torch.tensor([[first_answer(one)] for one in self.ends.starts(real)], device=real.device)
        prompt = real & (real.long().cumsum(1) <= ends)
        number = torch.arange(rows, device=embedded.device)[:, None].expand(-1, width)
        return _mean(embedded[prompt], number[prompt], rows)


def _held(cache: Any, wanted: Mapping[str, Sequence[int]], rows: int) -> dict[str, Tensor]:
    """What a cache says about its rows."""
    gates = next((layer.gates for layer in cache.layers if isinstance(layer, Decided)), {})
    found = {name: gates[name] for name in wanted if name in gates and len(gates[name]) == rows}
    if len(found) < len(wanted):
        raise PlanError(
            "this cache was filled without the decisions of a policy that serves it now.",
            code="E-DECISION-CACHE",
            fix="Begin with an empty cache inside the same `rows`.",
        )
    return found


def _mean(embedded: Tensor, row: Tensor, rows: int) -> Tensor:
    """`[B, D]` in float32: the mean over each row's tokens `[N, D]`; zero for a row without any."""
    total = torch.zeros(rows, embedded.shape[1], device=embedded.device).index_add(0, row, embedded.float())
    return total / torch.bincount(row, minlength=rows).clamp(min=1)[:, None]
