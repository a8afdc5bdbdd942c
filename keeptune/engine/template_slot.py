"""Templates: vectors that stand around and inside the text of an encoder's row, among them one for the mask.

    [CLS] a_1 .. a_i  x  b_1 .. b_j [SEP]
    [CLS] a_1 .. a_i  x [SEP] c_1 .. c_k  y  b_1 .. b_j [SEP]

The a, b and c are soft tokens, embedded words and the embedded mask, as a delta says; `frame` is how many special
tokens the tokenizer puts before and behind a text, and they stay outside. In a row of several texts, what the template
has between two of them stands behind their separator. What the body returns is aligned with what it was given: the
states of inserted vectors are taken out again, and that of the mask is kept aside for a readout.

Shapes: B rows, T tokens, D width, W vectors of the longest template in the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.deltas import Delta
from keeptune.engine.places import Book, Place, Slot
from keeptune.engine.positions import UsualPositions
from keeptune.engine.prompt_rows import other_texts
from keeptune.engine.soft_prompt import InputEmbedding
from keeptune.models.anatomy import anatomy_of

Frame = tuple[int, int]


class Around(Delta):
    """The vectors of one template.

    Attributes:
        ends: for each text of a row, how many of them stand before it; the others stand behind the last.
        mask: which of them is the mask, or None.
        frame: special tokens of the tokenizer before and behind a text.
        separator: the special token that ends a text which another follows.
    """

    ends: tuple[int, ...]
    mask: int | None
    frame: Frame
    separator: int | None

    @property
    def behind(self) -> int:
        """How many stand behind the last text."""
        return self.room - self.ends[-1]

    def virtual(self) -> Tensor:
        """`[room, D]`, on the scale of what the model's embedding returns."""
        raise NotImplementedError


class Layout(NamedTuple):
    """Where everything is in the widened batch.

    Attributes:
        order: `[B, T + W]` indices into a row's T tokens and W vectors.
        mask: `[B, T + W]` of what is real.
        keep: `[B, T]` where the tokens are.
        masked: `[B]` where the mask is; -1 without one.
    """

    order: Tensor
    mask: Tensor
    keep: Tensor
    masked: Tensor


@dataclass(frozen=True)
class AroundText(Place):
    """Among the embedded tokens of an encoder. Its deltas are `Around`s; a row takes one of them."""

    def name_of(self, parameter: str) -> str:
        """A model has one input, so files name the parameter alone."""
        return parameter

    def open(self, model: PreTrainedModel, book: Book) -> Slot:
        """Hooks the body, before and after."""
        anatomy = anatomy_of(model)
        slot = TemplateSlot(book, model.get_submodule(self.path))
        slot.usual = None if anatomy.positions is None else UsualPositions.of(model)
        body = model.get_submodule(anatomy.body)
        slot.arguments = list(inspect.signature(body.forward).parameters)
        slot.handles.append(body.register_forward_pre_hook(slot.lay_out, with_kwargs=True))
        slot.handles.append(body.register_forward_hook(slot.take_out))
        return slot


class TemplateSlot(Slot):
    """The templates of all adapters, and the hooks that put them into a forward pass.

    Attributes:
        layout: of the last pass; None when no row of it had a template.
        masked: `[B, D]` the states of that pass at the masks; rows without one hold nothing of use.
    """

    def __init__(self, book: Book, embedding: nn.Module) -> None:
        super().__init__(book)
        self.embedding = embedding
        self.usual: UsualPositions | None = None
        self.arguments: list[str] = []
        self.layout: Layout | None = None
        self.masked: Tensor | None = None

    def lay_out(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Puts the vectors of each row's template among its tokens."""
        self.layout = self.masked = None
        given = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        embedded = given.get("inputs_embeds")
        source = given["input_ids"] if embedded is None else embedded
        served = self._served(source.shape[0])
        if not any(served):
            return None
        mask = given.get("attention_mask")
        mask = torch.ones(source.shape[:2], dtype=torch.long) if mask is None else mask.long().cpu()
        layout = layout_of(served, mask, None if embedded is not None else given["input_ids"].tolist())
        self.layout = layout = Layout(*(part.to(source.device) for part in layout))
        positions = None if self.usual is None else self._positions(given, source, served, layout)
        embedded = self.embedding(given["input_ids"]) if embedded is None else embedded
        joined = torch.cat([embedded, self._block(served).to(embedded.dtype)], dim=1)
        given["inputs_embeds"] = joined.gather(1, layout.order[:, :, None].expand(-1, -1, joined.shape[2]))
        given["input_ids"], given["attention_mask"] = None, layout.mask
        if positions is not None:
            given["position_ids"] = positions
        if given.get("token_type_ids") is not None:
            given["token_type_ids"] = _types(given["token_type_ids"], layout)
        return (), given

    def take_out(self, body: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Takes the states of the vectors out, and keeps those of the masks."""
        if self.layout is None:
            return output
        hidden: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
        row = torch.arange(len(hidden), device=hidden.device)
        self.masked = hidden[row, self.layout.masked.clamp(min=0)]
        if isinstance(output, tuple):
            return (self.aligned(hidden), *output[1:])
        output.last_hidden_state = self.aligned(hidden)
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(map(self.aligned, output.hidden_states))
        return output

    def aligned(self, states: Tensor) -> Tensor:
        """`[B, T + W, D]` of the last pass to the states of its own tokens, `[B, T, D]`."""
        if self.layout is None:
            return states
        return states.gather(1, self.layout.keep[:, :, None].expand(-1, -1, states.shape[2]))

    def _served(self, count: int) -> list[Around | None]:
        """The template of each row."""
        found: list[Around | None] = []
        for stack in self.book.serving.stack_of_rows(count):
            own = [placed.delta for name in stack for placed in self.entries.get(name, ())]
            prompts = [name for name in stack if own and name in self._prompted()]
            if len(own) > 1 or prompts:
                raise PlanError(
                    "a row takes one template, and no soft prompt beside it.",
                    code="E-ROWS-TEMPLATE",
                    fix="Put the soft tokens of both into one template.",
                )
            found.append(own[0] if own else None)
        return found

    def _prompted(self) -> set[str]:
        slots = (slot for place, slot in self.book.slots.items() if isinstance(place, InputEmbedding))
        return {name for slot in slots for name in slot.entries}

    def _block(self, served: Sequence[Around | None]) -> Tensor:
        """`[B, W, D]`: the vectors of each row, flush left."""
        weight: Tensor = self.embedding.weight  # type: ignore[assignment]
        width = max(template.room for template in served if template)
        made = {id(template): template.virtual() for template in served if template}
        blocks = {key: nn.functional.pad(block, (0, 0, 0, width - len(block))) for key, block in made.items()}
        nothing = weight.new_zeros(width, weight.shape[1]).to(next(iter(blocks.values())))
        return torch.stack([blocks[id(template)] if template else nothing for template in served])

    def _positions(
        self, given: dict[str, Any], source: Tensor, served: Sequence[Around | None], layout: Layout
    ) -> Tensor:
        """Those of a row with a template count its real tokens; the others stay as the body takes them."""
        assert self.usual is not None
        counted = (layout.mask.cumsum(dim=1) - 1).clamp(min=0) + self.usual.first
        usual = nn.functional.pad(self.usual(given, source), (0, layout.mask.shape[1] - source.shape[1]))
        has_template = torch.tensor([template is not None for template in served], device=source.device)
        return torch.where(has_template[:, None], counted, usual)


def layout_of(served: Sequence[Around | None], mask: Tensor, ids: Sequence[Sequence[int]] | None = None) -> Layout:
    """How each row becomes [pads; frame; before; text; behind; frame; pads].

    Args:
        served: the template of each row.
        mask: `[B, T]` of the rows as given.
        ids: their tokens, which say where the texts of a row end.

    Raises:
        PlanError: a row has not as many texts as its template (E-ROWS-TEMPLATE).
    """
    tokens = mask.shape[1]
    width = max(template.room for template in served if template)
    orders, masks, keeps, masked = [], [], [], []
    for row, (template, real) in enumerate(zip(served, mask.tolist(), strict=True)):
        order = list(range(tokens))
        if template is not None:
            first, last = real.index(1), tokens - real[::-1].index(1)
            start, end = first + template.frame[0], last - template.frame[1]
            starts = [start, *_later_texts(template, ids[row] if ids else None, start, end)]
            vectors = list(range(tokens, tokens + template.room))
            order = order[:start]
            for here, after, a, b in zip(starts, [*starts[1:], end], (0, *template.ends), template.ends, strict=False):
                order += [*vectors[a:b], *range(here, after)]
            order += [*vectors[template.ends[-1] :], *range(end, tokens)]
        place = {index: column for column, index in enumerate(order)}
        rest = tokens + width - len(order)
        orders.append(order + [0] * rest)
        masks.append([1 if index >= tokens else real[index] for index in order] + [0] * rest)
        keeps.append([place[token] for token in range(tokens)])
        at = None if template is None else template.mask
        masked.append(-1 if at is None else place[tokens + at])
    return Layout(torch.tensor(orders), torch.tensor(masks), torch.tensor(keeps), torch.tensor(masked))


def _later_texts(template: Around, ids: Sequence[int] | None, start: int, end: int) -> list[int]:
    """Where each text but the first begins: behind the separators, which are one token or several."""
    if len(template.ends) == 1:
        return []
    row = [] if ids is None else list(ids)
    apart = [place for place in range(start, min(end, len(row))) if row[place] == template.separator]
    found = [place + 1 for place in apart if place + 1 not in apart]
    if len(found) != len(template.ends) - 1:
        call = "for a call of your own pass `input_ids` in which `tokenizer(first, second)` has joined the texts."
        raise other_texts(len(template.ends), len(found) + 1, call=call)
    return found


def _types(types: Tensor, layout: Layout) -> Tensor:
    """Token types `[B, T]` to `[B, T + W]`: a vector has that of the token behind it."""
    width = layout.order.shape[1] - types.shape[1]
    most = types.max() + 1
    wide = nn.functional.pad(types, (0, width), value=int(most)).gather(1, layout.order)
    behind = wide.masked_fill(layout.mask == 0, int(most)).flip(1).cummin(dim=1).values.flip(1)
    return behind.clamp(max=int(most) - 1)
