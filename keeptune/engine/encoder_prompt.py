"""Soft prompts in front of an encoder whose output a decoder reads (T5, BART; Lester et al. 2021).

The encoder sees [P; E(x); pads], and so does the decoder's cross attention: nothing is taken out again. A template may
also have virtual tokens Q behind the text, before what the tokenizer ends it with, and R between two texts:
[P; E(x); R; E(y); Q; </s>; pads]. Two hooks: one lays out the encoder's input, one widens the mask that tells the
decoder which of it is real. In a row with a prompt the pads move behind the text, so that neither learned nor relative
positions see a gap.

Shapes: B rows, T tokens, D width, W virtual tokens of the row that has most.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from keeptune.core.errors import PlanError
from keeptune.engine.inserted import Inserted, inserted
from keeptune.engine.places import Book, Slot
from keeptune.engine.prompt_rows import PromptRows, Surrounding, counts_of, cuts_between
from keeptune.engine.request_parts import starts_of_rows


class EncoderPromptSlot(Slot):
    """The prompts of all adapters, and the hooks on the encoder and the decoder."""

    def __init__(self, book: Book, embedding: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__(book)
        self.rows = PromptRows(book, self.entries, embedding)
        self.arguments = {side: list(inspect.signature(side.forward).parameters) for side in (encoder, decoder)}
        self.handles.append(encoder.register_forward_pre_hook(self.before_encoder, with_kwargs=True))
        self.handles.append(decoder.register_forward_pre_hook(self.before_decoder, with_kwargs=True))

    def around(self, count: int) -> list[Surrounding]:
        """The virtual tokens of each of `count` rows."""
        stacks = self.rows.stacks(count)
        known = {stack: self.rows.around(stack) for stack in dict.fromkeys(stacks)}
        return [known[stack] for stack in stacks]

    def before_encoder(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Puts the virtual tokens among the text."""
        given = {**dict(zip(self.arguments[encoder], args, strict=False)), **kwargs}
        embedded = given.get("inputs_embeds")
        source = given["input_ids"] if embedded is None else embedded
        stacks = self.rows.stacks(source.shape[0])
        around = self.around(source.shape[0])
        width = max(one.total for one in around)
        if not width:
            return None
        embedded = self.rows.embedding(given["input_ids"]) if embedded is None else embedded
        mask = _mask(given.get("attention_mask"), source)
        texts = [starts.texts for starts in starts_of_rows(source.shape[0])]
        layout = laid_out(mask, around, width, texts)
        given["inputs_embeds"] = layout.put(self.rows.block(stacks, width), embedded)
        given["input_ids"], given["attention_mask"] = None, layout.put(layout.real, mask)
        return (), given

    def before_decoder(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Widens the mask over the encoder's output."""
        given = {**dict(zip(self.arguments[decoder], args, strict=False)), **kwargs}
        states: Tensor | None = given.get("encoder_hidden_states")
        if states is None:
            return None
        around = self.around(states.shape[0])
        most = max(one.total for one in around)
        mask: Tensor | None = given.get("encoder_attention_mask")
        # Rows with the longest prompts may have left the batch since the encoder ran.
        width = most if mask is None else states.shape[1] - mask.shape[1]
        if not width and not most:
            return None
        if width < most or states.shape[1] <= width:
            raise PlanError(
                "the encoder's output was made under other soft prompts.",
                code="E-PROMPT-CACHE",
                fix="Run the encoder and the decoder inside the same `rows`.",
            )
        mask = _mask(mask, states[:, : states.shape[1] - width])
        joined = [Surrounding((one.total, 0), 0) for one in around]  # the mask is the same wherever in the row they are
        layout = laid_out(mask, joined, width)
        given["encoder_attention_mask"] = layout.put(layout.real, mask)
        return (), given


def laid_out(
    mask: Tensor, around: Sequence[Surrounding], width: int, starts: Sequence[tuple[int, ...]] = ()
) -> Inserted:
    """How a row becomes [P; text; Q; tail; pads], or with R between texts.

    Args:
        mask: `[B, T]` of the rows as given.
        around: P, R, Q and tail of each row; a row without virtual tokens stays as given.
        width: W.
        starts: where in each row its texts begin, but the first.

    Raises:
        PlanError: a row has not as many texts as its template (E-ROWS-TEMPLATE).
    """
    counts, between = torch.tensor(counts_of(around)), torch.tensor(cuts_between(around, starts or [()] * len(around)))
    tail = torch.tensor([one.tail for one in around])
    counts, between, tail = (numbers.to(mask.device) for numbers in (counts, between, tail))
    first = mask.argmax(dim=1, keepdim=True) * (counts.sum(dim=1, keepdim=True) > 0)
    end = mask.sum(dim=1, keepdim=True) - tail[:, None]
    cuts = torch.cat([torch.zeros_like(end), between.long(), end], dim=1)
    layout = inserted(cuts, counts, mask.shape[1], width)
    place = (torch.arange(mask.shape[1], device=mask.device) - first) % mask.shape[1]
    return layout._replace(tokens=layout.tokens.gather(1, place))


def _mask(mask: Tensor | None, source: Tensor) -> Tensor:
    return torch.ones(source.shape[:2], dtype=torch.long, device=source.device) if mask is None else mask.long()
