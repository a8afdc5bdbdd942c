"""Soft prompts: virtual tokens that stand directly before the text of each row that they serve.

    X' = [P; E(x)],         P: p x D
    X' = [P; E(x); Q; E(y)]           Q: those of a template behind the request x, before its answer y
    X' = [P; E(a); R; E(b); Q; E(y)]                          R: those between two texts of the request
    X' = [P; E(x); Q; E(y); E(x'); Q; E(y')]                  in a conversation Q stands before each answer

Every virtual token takes a position: those of a row count from 0 at its first, text and virtual tokens alike, so that
Q moves the answer on as P moves the request. So one row of a conversation is all of its requests at once, each behind
the turns before it as they were read when they were answered, and a cache of it goes on to the next.

In a padded batch the virtual tokens come after the left pads, next to the text, and rows may have prompts of different
lengths (or none). What the model returns is aligned with what it was given: the hidden states of virtual tokens are
taken out again, so labels need no change. What predicts an answer is the last of Q: its state is given back as that of
the last token before the answer. In the cache the virtual tokens stay, and later steps account for them. In front of an
encoder-decoder they stand as `encoder_prompt.py` says.

Shapes: B rows, T tokens, D width, W virtual tokens of the row that has most.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.data.starts import UNSAID
from keeptune.engine.cache_notes import PAD, TEXT, VIRTUAL, VirtualColumns, columns_of
from keeptune.engine.deltas import Delta
from keeptune.engine.encoder_prompt import EncoderPromptSlot
from keeptune.engine.inserted import Inserted
from keeptune.engine.places import Book, Place, Slot
from keeptune.engine.positions import UsualPositions
from keeptune.engine.prompt_rows import Group, PromptRows, groups_among
from keeptune.engine.request_parts import RequestEnds, answered, starts_of_rows
from keeptune.engine.segments import current_segments, segments
from keeptune.engine.selection import Stack
from keeptune.engine.widened import Added, laid_out, text_mask, widened, with_virtual_positions
from keeptune.models.anatomy import anatomy_of

if TYPE_CHECKING:
    from keeptune.engine.batch import PackedBatch


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

    def open(self, model: PreTrainedModel, book: Book) -> Slot:
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
        slot.handles += slot.ends.listen(model)
        return slot


class Expanded(NamedTuple):
    """A packed batch with its virtual tokens.

    Attributes:
        embedded: `[1, T', D]`.
        positions: `[T']`.
        offsets: S + 1 bounds.
        keep: `[T]` indices into T' of what the states of the batch's own tokens are.
    """

    embedded: Tensor
    positions: Tensor
    offsets: list[int]
    keep: Tensor


class PromptSlot(Slot):
    """The prompts of all adapters, and the hooks that put them into a forward pass."""

    def __init__(self, book: Book, embedding: nn.Embedding) -> None:
        super().__init__(book)
        self.embedding = embedding
        self.rows = PromptRows(book, self.entries, embedding)
        self.usual: UsualPositions | None = UsualPositions()
        self.ends = RequestEnds()
        self.arguments: list[str] = []
        self._added: Added | None = None

    @property
    def reads_requests(self) -> bool:
        """Whether virtual tokens stand behind a request, or between its texts."""
        return any(any(self.rows.around((name,)).counts[1:]) for name in self.entries)

    def expand(self, batch: PackedBatch) -> Expanded | None:
        """The packed batch with each segment's virtual tokens; None when no segment has any."""
        stacks = self.rows.stacks(len(batch.offsets) - 1)
        if not any(stacks):
            return None
        with segments(batch.offsets):  # an adapter on the embedding serves each row as its own
            embedded = self.embedding(batch.tokens)
        kinds = list(dict.fromkeys(stacks))
        blocks = [self.rows.virtual(stack, embedded.dtype) for stack in kinds]
        around = {stack: self.rows.around(stack) for stack in kinds}
        bases = dict(zip(kinds, accumulate(map(len, blocks), initial=len(embedded)), strict=False))
        starts = answered(batch) if any(any(one.counts[1:]) for one in around.values()) else [UNSAID] * len(stacks)
        order, keep, offsets = list[Tensor](), list[Tensor](), [0]
        for stack, said, (start, stop) in zip(stacks, starts, pairwise(batch.offsets), strict=True):
            own, states = _spread(groups_among(around[stack], said), start, stop, bases[stack])
            order += own
            keep.append(states + offsets[-1])
            offsets.append(offsets[-1] + sum(map(len, own)))
        lengths = [stop - start for start, stop in pairwise(offsets)]
        places = (torch.cat(parts) for parts in (order, keep, [torch.arange(length) for length in lengths]))
        index, kept, position = (part.to(embedded.device) for part in places)
        return Expanded(torch.cat([embedded, *blocks])[index][None], position, offsets, kept)

    def before(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Adds the virtual tokens to a padded batch, and accounts for those that are in its cache already."""
        self._added = None
        given = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        packed = current_segments()
        if packed is not None:
            self._refuse_unexpanded(given, len(packed.offsets) - 1)
            return None
        source = given["inputs_embeds"] if given.get("input_ids") is None else given["input_ids"]
        rows, tokens = source.shape[:2]
        stacks = self.rows.stacks(rows)
        kinds = self._cached(given.get("past_key_values"), stacks, source.device)
        if not any(stacks) and columns_of(given.get("past_key_values")) is None:
            return None
        if given.get("token_type_ids") is not None and self.usual == UsualPositions():
            raise PlanError("a soft prompt has no token type.", code="E-PROMPT-MASK", fix="Drop `token_type_ids`.")
        held = (kinds == VIRTUAL).sum(dim=1, keepdim=True)
        mask = text_mask(given, rows, int((kinds[:1] == TEXT).sum()), tokens).to(source.device)
        groups = self._groups(stacks, mask, tokens)
        width = max(sum(group.size for group in own) for own in groups)
        positions = None
        if self.usual is not None:
            prompted = torch.tensor([[bool(stack)] for stack in stacks], device=mask.device)
            positions = self.usual.beside_pads({**given, "attention_mask": mask}, source, prompted) + held
        before, own = widened(mask[:, :-tokens], kinds), mask[:, -tokens:]
        if width:
            self._added = laid_out(groups, own, width)
            layout = self._added.layout
            given["inputs_embeds"] = self._insert(given, self.rows.grouped(stacks, groups, width), layout)
            given["input_ids"], own = None, layout.put(layout.real, own)
            if positions is not None:
                columns = torch.arange(tokens, device=mask.device) + width - layout.real.sum(dim=1, keepdim=True)
                positions = with_virtual_positions(positions + layout.tokens - columns, mask[:, -tokens:], layout)
            if given.get("token_type_ids") is not None:
                given["token_type_ids"] = layout.put(torch.zeros_like(layout.vectors), given["token_type_ids"])
        given["attention_mask"] = torch.cat([before, own], dim=1)
        if positions is not None:
            given["position_ids"] = positions
        return (), given

    def after(self, body: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Takes the hidden states of the virtual tokens out, and notes where in the cache they are."""
        added, self._added = self._added, None
        if added is None:
            return output
        if isinstance(output, tuple):
            return (added.aligned(output[0]), *output[1:])
        output.last_hidden_state = added.aligned(output.last_hidden_state)
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(map(added.aligned, output.hidden_states))
        if output.get("past_key_values") is not None:
            self._note(output.past_key_values, added)
        return output

    def _cached(self, cache: Any, stacks: Sequence[Stack], device: torch.device) -> Tensor:
        """`[B, C]`: what the columns of the cache are; it was filled under the same prompts."""
        columns = 0 if cache is None else cache.get_seq_length()
        note = columns_of(cache)
        if not columns or (note is None and not any(stacks)):
            return torch.zeros(len(stacks), columns, dtype=torch.long, device=device)
        if note is None or note.served() != list(stacks):
            raise PlanError(
                "this cache was filled under other soft prompts.",
                code="E-PROMPT-CACHE",
                fix="Begin with an empty cache inside the same `rows`.",
            )
        return note.all_kinds(columns)

    def _note(self, cache: Any, added: Added) -> None:
        """Writes down what the columns of this call are."""
        note = columns_of(cache)
        if note is None:
            note = VirtualColumns(cache, self.rows.stacks(len(added.layout.real)), added.layout.real.device)
            cache.layers.append(note)
        own = added.layout.put(torch.where(added.layout.real, VIRTUAL, PAD), torch.zeros_like(added.layout.tokens))
        note.kinds = torch.cat([note.all_kinds(cache.get_seq_length() - own.shape[1]), own], dim=1)

    def _groups(self, stacks: Sequence[Stack], mask: Tensor, tokens: int) -> list[list[Group]]:
        """Each row's virtual tokens in this call, their places counted from the row's first token in it.

        Args:
            stacks: the prompts of each row.
            mask: `[B, T]` of the text, cached tokens included.
            tokens: of this call.
        """
        known = {stack: self.rows.around(stack) for stack in dict.fromkeys(stacks)}
        around = [known[stack] for stack in stacks]
        if mask.shape[1] == tokens:
            templates = any(any(one.counts[1:]) for one in around)
            starts = self.ends.starts(mask) if templates else [UNSAID] * len(stacks)
            return [groups_among(one, said) for one, said in zip(around, starts, strict=True)]
        said = starts_of_rows(len(stacks))
        if tokens > 1 and any(one.behind and not starts.answers for one, starts in zip(around, said, strict=True)):
            raise PlanError(
                f"{tokens} tokens go on from a cache, and the template has soft tokens before each answer.",
                code="E-PROMPT-TURN",
                why="They may be more of the answer, or the next request, behind which soft tokens stand.",
                fix="Say where the answers of each row begin, cached tokens counted: "
                "`with keeptune.divided(answers=[[12, 31]]):`.",
            )
        if not any(starts.answers for starts in said):
            return [[]] * len(stacks)
        cached, ends = mask[:, :-tokens].sum(dim=1).tolist(), mask.sum(dim=1).tolist()
        return [
            [
                Group(place - past, sum(one.counts[:-1]), one.behind, True)
                for place in starts.answers
                if one.behind and past < place <= end
            ]
            for one, starts, past, end in zip(around, said, cached, ends, strict=True)
        ]

    def _insert(self, given: dict[str, Any], block: Tensor, layout: Inserted) -> Tensor:
        """`[B, W + T, D]`."""
        embedded = given.get("inputs_embeds")
        embedded = self.embedding(given["input_ids"]) if embedded is None else embedded
        return layout.put(block, embedded)

    def _refuse_unexpanded(self, given: dict[str, Any], count: int) -> None:
        if given.get("inputs_embeds") is None and any(self.rows.stacks(count)):
            raise PlanError(
                "a soft prompt serves a segment of this packed batch, but the batch was not expanded.",
                code="E-PROMPT-PACKED",
                fix="Run packed batches through `keeptune.engine.packed.packed_hidden`.",
            )


def _spread(groups: Sequence[Group], start: int, stop: int, base: int) -> tuple[list[Tensor], Tensor]:
    """A segment with its virtual tokens.

    Args:
        groups: of them, in order.
        start: of the segment.
        stop: its end.
        base: index of the first virtual token of its stack.

    Returns:
        Indices of tokens and virtual tokens in order, and where in it the states of the tokens are.
    """
    order, states, here = list[Tensor](), torch.arange(stop - start), 0
    for group in groups:
        order += [torch.arange(start + here, start + group.cut), torch.arange(group.size) + base + group.first]
        states[group.cut - group.answers :] += group.size  # what predicts an answer is the last vector before it
        here = group.cut
    return [*order, torch.arange(start + here, stop)], states
