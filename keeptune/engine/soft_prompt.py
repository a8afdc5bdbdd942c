"""Soft prompts: virtual tokens that stand directly before the text of each row that they serve.

    X' = [P; E(x)],   P: p x D

Positions restart at 0 with the first virtual token. In a padded batch the virtual tokens come after the left pads,
next to the text, and rows may have prompts of different lengths (or none). What the model returns is aligned with
what it was given: the hidden states of virtual tokens are taken out again, so labels need no change. In the cache they
stay, and later steps account for them. In front of an encoder-decoder they stand as `encoder_prompt.py` says.

Shapes: B rows, T tokens, D width, W virtual tokens of the longest prompt in the batch.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.attention import current_segments, segments
from keeptune.engine.deltas import Delta
from keeptune.engine.encoder_prompt import EncoderPromptSlot
from keeptune.engine.places import Place, Slot
from keeptune.engine.positions import UsualPositions
from keeptune.engine.prompt_rows import PromptRows
from keeptune.models.anatomy import anatomy_of

if TYPE_CHECKING:
    from keeptune.engine.batch import PackedBatch
    from keeptune.engine.book import Adapters


class SoftPrompt(Delta):
    """The virtual tokens of one prompt.

    Attributes:
        prompt_embeddings: `[p, D]`, on the scale of what the model's embedding returns.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.room = length
        self.prompt_embeddings = nn.Parameter(torch.zeros(length, width))

    def virtual(self) -> Tensor:
        """`[p, D]`."""
        return self.prompt_embeddings


@dataclass(frozen=True)
class InputEmbedding(Place):
    """Before the embedded tokens. Its deltas are `SoftPrompt`s; several on one row stand in the order of its stack."""

    def name_of(self, parameter: str) -> str:
        """A model has one input embedding, so files name the parameter alone, as PEFT does."""
        return parameter

    def open(self, model: PreTrainedModel, book: Adapters) -> Slot:
        """Hooks the body, before and after; in an encoder-decoder the encoder and the decoder."""
        embedding, anatomy = model.get_submodule(self.path), anatomy_of(model)
        if anatomy.kind == "encoder_decoder":
            return EncoderPromptSlot(book, embedding, model.get_encoder(), model.get_decoder())
        slot = PromptSlot(book, embedding)
        slot.usual = None if anatomy.positions is None else UsualPositions.of(model)
        body = model.get_submodule(anatomy.body)
        slot.arguments = list(inspect.signature(body.forward).parameters)
        slot.handles.append(body.register_forward_pre_hook(slot.before, with_kwargs=True))
        slot.handles.append(body.register_forward_hook(slot.after))
        return slot


class Expanded(NamedTuple):
    """A packed batch with its virtual tokens.

    Attributes:
        embedded: `[1, T', D]`.
        positions: `[T']`.
        offsets: S + 1 bounds.
        keep: `[T]` indices into T' of the batch's own tokens.
    """

    embedded: Tensor
    positions: Tensor
    offsets: list[int]
    keep: Tensor


class Held(NamedTuple):
    """What a cache holds of virtual tokens: W columns, and the numbers of real ones that its rows have."""

    width: int
    counts: frozenset[int]


_NOTHING = Held(0, frozenset({0}))


class PromptSlot(Slot):
    """The prompts of all adapters, and the hooks that put them into a forward pass."""

    def __init__(self, book: Adapters, embedding: nn.Embedding) -> None:
        super().__init__(book)
        self.embedding = embedding
        self.rows = PromptRows(book, self.entries, embedding)
        self.usual: UsualPositions | None = UsualPositions()
        self.arguments: list[str] = []
        self._in_cache: WeakKeyDictionary[Any, Held] = WeakKeyDictionary()
        self._added = _NOTHING

    def expand(self, batch: PackedBatch) -> Expanded | None:
        """The packed batch with each segment's virtual tokens before it; None when no segment has any."""
        stacks = self.rows.stacks(len(batch.offsets) - 1)
        if not any(stacks):
            return None
        with segments(batch.offsets):  # an adapter on the embedding serves each row as its own
            embedded = self.embedding(batch.tokens)
        blocks = {stack: self.rows.virtual(stack, embedded.dtype) for stack in dict.fromkeys(stacks)}
        starts, end = {}, len(embedded)
        for stack, block in blocks.items():
            starts[stack], end = end, end + len(block)
        order, keep, positions, offsets = [], [], [], [0]
        for stack, start, stop in zip(stacks, batch.offsets, batch.offsets[1:], strict=False):
            length, text = len(blocks[stack]), offsets[-1] + len(blocks[stack])
            order += [torch.arange(starts[stack], starts[stack] + length), torch.arange(start, stop)]
            positions += [torch.arange(length), torch.arange(length, length + stop - start)]
            keep.append(torch.arange(text, text + stop - start))
            offsets.append(text + stop - start)
        index, kept, place = (torch.cat(parts).to(embedded.device) for parts in (order, keep, positions))
        return Expanded(torch.cat([embedded, *blocks.values()])[index][None], place, offsets, kept)

    def before(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Adds the virtual tokens to a padded batch, or accounts for those that are in its cache already."""
        self._added = _NOTHING
        given = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        packed = current_segments()
        if packed is not None:
            self._refuse_unexpanded(given, len(packed.offsets) - 1)
            return None
        source = given["inputs_embeds"] if given.get("input_ids") is None else given["input_ids"]
        rows, tokens = source.shape[:2]
        cache = given.get("past_key_values")
        past = 0 if cache is None else cache.get_seq_length()
        stacks = self.rows.stacks(rows)
        counts = [self.rows.length(stack) for stack in stacks]
        held = self._in_cache.get(cache, _NOTHING) if past else Held(max(counts), frozenset(counts))
        if not held.counts.issuperset(counts):
            raise PlanError(
                "this cache was filled under other soft prompts.",
                code="E-PROMPT-CACHE",
                fix="Begin with an empty cache inside the same `rows`.",
            )
        if not held.width:
            return None
        text = past - held.width + tokens if past else tokens
        mask = self._mask(given, rows, text).to(source.device)
        lengths = torch.tensor(counts, device=mask.device)[:, None]
        columns = mask.argmax(dim=1, keepdim=True) + torch.arange(held.width, device=mask.device)
        if not past:
            given["inputs_embeds"] = self._insert(given, self.rows.block(stacks, held.width), columns)
            given["input_ids"] = None
            self._added = held
            if given.get("token_type_ids") is not None:
                given["token_type_ids"] = widened(given["token_type_ids"], torch.zeros_like(lengths), columns)
        if self.usual is not None:
            shifted = self.usual({**given, "attention_mask": mask}, source) + lengths
            given["position_ids"] = shifted if past else with_virtual_positions(shifted, columns)
        given["attention_mask"] = widened(mask, lengths, columns)
        return (), given

    def after(self, body: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Takes the hidden states of the virtual tokens out, and notes how many the cache holds."""
        held, self._added = self._added, _NOTHING
        added = held.width
        if not added:
            return output
        if isinstance(output, tuple):
            return (output[0][:, added:], *output[1:])
        output.last_hidden_state = output.last_hidden_state[:, added:]
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(states[:, added:] for states in output.hidden_states)
        if output.get("past_key_values") is not None:
            self._in_cache[output.past_key_values] = held
        return output

    def _insert(self, given: dict[str, Any], block: Tensor, columns: Tensor) -> Tensor:
        """`[B, W + T, D]`: every token W columns to the right, the virtual tokens just before the first of its row."""
        embedded = given.get("inputs_embeds")
        embedded = self.embedding(given["input_ids"]) if embedded is None else embedded
        block = block.to(embedded.dtype)
        room = torch.cat([torch.zeros_like(block), embedded], dim=1)
        return room.scatter(1, columns[:, :, None].expand_as(block), block)

    def _refuse_unexpanded(self, given: dict[str, Any], count: int) -> None:
        if given.get("inputs_embeds") is None and any(self.rows.stacks(count)):
            raise PlanError(
                "a soft prompt serves a segment of this packed batch, but the batch was not expanded.",
                code="E-PROMPT-PACKED",
                fix="Run packed batches through `keeptune.engine.packed.packed_hidden`.",
            )

    def _mask(self, given: dict[str, Any], rows: int, text: int) -> Tensor:
        """`[B, T]`: the mask over the text, cached tokens included."""
        mask: Tensor | None = given.get("attention_mask")
        if given.get("token_type_ids") is not None and self.usual == UsualPositions():
            raise PlanError("a soft prompt has no token type.", code="E-PROMPT-MASK", fix="Drop `token_type_ids`.")
        if mask is None:
            return torch.ones(rows, text, dtype=torch.long)
        if tuple(mask.shape) != (rows, text):
            raise PlanError(
                f"a soft prompt cannot be placed with an attention mask of shape {tuple(mask.shape)}.",
                code="E-PROMPT-MASK",
                fix=f"Pass one number per token of the text, cached ones included: {(rows, text)}.",
            )
        return mask.long()


def with_virtual_positions(text: Tensor, columns: Tensor) -> Tensor:
    """`[B, W + T]`: the virtual tokens count up to where their row's text begins."""
    width = columns.shape[1]
    begin = text.gather(1, columns[:, :1])
    before = (begin - width + torch.arange(width, device=text.device)).clamp(min=0)
    return torch.cat([torch.zeros_like(columns), text], dim=1).scatter(1, columns, before)


def widened(mask: Tensor, lengths: Tensor, columns: Tensor) -> Tensor:
    """`[B, W + T]`: the mask, with the real virtual tokens before each row's first token."""
    width = columns.shape[1]
    real = torch.arange(width, device=mask.device) >= width - lengths
    return torch.cat([torch.zeros_like(columns), mask], dim=1).scatter(1, columns, real.to(mask.dtype))
