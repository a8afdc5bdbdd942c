"""Soft prompts: virtual tokens that stand directly before the text of each row that they serve.

    X' = [P; E(x)],         P: p x D
    X' = [P; E(x); Q; E(y)]           Q: those of a template behind the request x, before its answer y
    X' = [P; E(a); R; E(b); Q; E(y)]                          R: those between two texts of the request

Every virtual token takes a position: those of a row count from 0 at its first, text and virtual tokens alike, so that
Q moves the answer on as P moves the request. In a padded batch the virtual tokens come after the left pads, next to the
text, and rows may have prompts of different lengths (or none). What the model returns is aligned with what it was
given: the hidden states of virtual tokens are taken out again, so labels need no change. What predicts the answer is
the last of Q: its state is given back as that of the request's last token. In the cache the virtual tokens stay, and
later steps account for them. In front of an encoder-decoder they stand as `encoder_prompt.py` says.

Shapes: B rows, T tokens, D width, W virtual tokens of the row that has most.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.attention import current_segments, segments
from keeptune.engine.deltas import Delta
from keeptune.engine.encoder_prompt import EncoderPromptSlot
from keeptune.engine.inserted import Inserted, inserted
from keeptune.engine.places import Place, Slot
from keeptune.engine.positions import UsualPositions
from keeptune.engine.prompt_rows import PromptRows, Surrounding, counts_of, cuts_between
from keeptune.engine.request_parts import RequestEnds, requests, starts_of_rows
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
        self.ends = RequestEnds()
        self.arguments: list[str] = []
        self._in_cache: WeakKeyDictionary[Any, Held] = WeakKeyDictionary()
        self._added = _NOTHING
        self._keep: Tensor | None = None

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
        starts = dict(zip(kinds, accumulate(map(len, blocks), initial=len(embedded)), strict=False))
        answered = any(one.behind for one in around.values())
        spans = requests(batch) if answered else list(pairwise(batch.offsets))
        rows = [around[stack] for stack in stacks]
        between = cuts_between(rows, batch.starts or [()] * len(rows))
        counts = counts_of(rows)
        order, keep, offsets = list[Tensor](), list[Tensor](), [0]
        for row, ((start, end), stop) in enumerate(zip(spans, batch.offsets[1:], strict=True)):
            cuts = (start, *(start + cut for cut in between[row]), end)
            own, states = _spread(counts[row], cuts, stop, starts[stacks[row]])
            order += own
            keep.append(states + offsets[-1])
            offsets.append(offsets[-1] + rows[row].total + len(states))
        lengths = [stop - start for start, stop in pairwise(offsets)]
        places = (torch.cat(parts) for parts in (order, keep, [torch.arange(length) for length in lengths]))
        index, kept, position = (part.to(embedded.device) for part in places)
        return Expanded(torch.cat([embedded, *blocks])[index][None], position, offsets, kept)

    def before(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Adds the virtual tokens to a padded batch, or accounts for those that are in its cache already."""
        self._added, self._keep = _NOTHING, None
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
        known = {stack: self.rows.around(stack) for stack in dict.fromkeys(stacks)}
        around = [known[stack] for stack in stacks]
        counts = [one.total for one in around]
        held = self._in_cache.get(cache, _NOTHING) if past else Held(max(counts), frozenset(counts))
        if not held.counts.issuperset(counts):
            raise PlanError(
                "this cache was filled under other soft prompts.",
                code="E-PROMPT-CACHE",
                fix="Begin with an empty cache inside the same `rows`.",
            )
        if not held.width:
            return None
        mask = self._mask(given, rows, past - held.width + tokens if past else tokens).to(source.device)
        lengths = torch.tensor(counts, device=mask.device)[:, None]
        if past:
            if self.usual is not None:
                given["position_ids"] = self.usual({**given, "attention_mask": mask}, source) + lengths
            given["attention_mask"] = widened(mask, lengths, held.width)
            return (), given
        layout = self._layout(around, mask, held.width)
        if self.usual is not None:
            moved = layout.tokens - torch.arange(tokens, device=mask.device) - held.width + lengths
            shifted = self.usual({**given, "attention_mask": mask}, source) + moved
            given["position_ids"] = with_virtual_positions(shifted, mask, layout)
        given["inputs_embeds"] = self._insert(given, self.rows.block(stacks, held.width), layout)
        given["input_ids"], given["attention_mask"] = None, layout.put(layout.real, mask)
        if given.get("token_type_ids") is not None:
            given["token_type_ids"] = layout.put(torch.zeros_like(layout.vectors), given["token_type_ids"])
        self._added = held
        return (), given

    def after(self, body: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Takes the hidden states of the virtual tokens out, and notes how many the cache holds."""
        held, self._added = self._added, _NOTHING
        added = held.width
        if not added:
            return output
        if isinstance(output, tuple):
            return (self._aligned(output[0], added), *output[1:])
        output.last_hidden_state = self._aligned(output.last_hidden_state, added)
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(self._aligned(states, added) for states in output.hidden_states)
        if output.get("past_key_values") is not None:
            self._in_cache[output.past_key_values] = held
        return output

    def _layout(self, around: Sequence[Surrounding], mask: Tensor, width: int) -> Inserted:
        """Each row's virtual tokens next to its text, flush right; notes which states are those of its tokens."""
        tokens, first = mask.shape[1], mask.argmax(dim=1, keepdim=True)
        counts = torch.tensor(counts_of(around), device=mask.device)
        between = torch.tensor(cuts_between(around, starts_of_rows(len(around)))).to(first)
        end = first + self.ends.lengths(mask)
        layout = inserted(torch.cat([first, first + between, end], dim=1), counts, tokens, width)
        right = width - counts.sum(dim=1, keepdim=True)
        vectors, text = ((columns + right) % (width + tokens) for columns in layout[:2])
        if any(any(one.counts[1:]) for one in around):
            last = torch.arange(tokens, device=mask.device) == end - 1
            self._keep = text + counts[:, -1:] * last
        return Inserted(vectors, text, layout.real)

    def _aligned(self, states: Tensor, added: int) -> Tensor:
        """`[B, W + T, D]` of the body to those of the tokens that it was given."""
        if self._keep is None:
            return states[:, added:]
        return states.gather(1, self._keep[:, :, None].expand(-1, -1, states.shape[2]))

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


def with_virtual_positions(text: Tensor, mask: Tensor, layout: Inserted) -> Tensor:
    """`[B, W + T]`: the virtual tokens count up to where their row's text begins, or on from there.

    Args:
        text: `[B, T]` positions of the tokens, moved on already.
        mask: `[B, T]` of the tokens.
        layout: where everything goes.
    """
    first = mask.argmax(dim=1, keepdim=True)
    from_first = layout.vectors - layout.tokens.gather(1, first)
    return layout.put((text.gather(1, first) + from_first).clamp(min=0) * layout.real, text)


def widened(mask: Tensor, lengths: Tensor, width: int) -> Tensor:
    """`[B, W + T]`: the mask over a cache, with the real virtual tokens before each row's text.

    Those behind it or inside are no other columns: in a row's request all are real, and lie next to each other.
    """
    number = torch.arange(width, device=mask.device)
    columns, real = mask.argmax(dim=1, keepdim=True) + number, number >= width - lengths
    return torch.cat([torch.zeros_like(columns), mask], dim=1).scatter(1, columns, real.to(mask.dtype))


def _spread(counts: Sequence[int], cuts: Sequence[int], stop: int, vector: int) -> tuple[list[Tensor], Tensor]:
    """A segment with its virtual tokens.

    Args:
        counts: of each group of them.
        cuts: the token that each group stands before: the segment's first, ..., the one behind its request.
        stop: the end of the segment.
        vector: index of the first virtual token.

    Returns:
        Indices of tokens and virtual tokens in order, and where in it the states of the tokens are.
    """
    if not any(counts[1:]):
        tokens = torch.arange(cuts[0], stop)
        return [torch.arange(vector, vector + counts[0]), tokens], tokens - cuts[0] + counts[0]
    start, order, states = cuts[0], list[Tensor](), torch.arange(stop - cuts[0])
    for cut, count, after in zip(cuts, counts, (*cuts[1:], stop), strict=True):
        order += [torch.arange(vector, vector + count), torch.arange(cut, after)]
        states[cut - start :] += count
        vector += count
    if counts[-1]:
        states[cuts[-1] - start - 1 : cuts[-1] - start] += counts[-1]
    return order, states
