"""Soft prompts in front of an encoder whose output a decoder reads (T5, BART; Lester et al. 2021).

The encoder sees [P; E(x); pads], and so does the decoder's cross attention: nothing is taken out again. A template may
also have virtual tokens Q behind the text, before what the tokenizer ends it with: [P; E(x); Q; </s>; pads]. Two hooks:
one lays out the encoder's input, one widens the mask that tells the decoder which of it is real. In a row with a prompt
the pads move behind the text, so that neither learned nor relative positions see a gap.

Shapes: B rows, T tokens, D width, W virtual tokens of the row that has most.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from keeptune.core.errors import PlanError
from keeptune.engine.places import Slot
from keeptune.engine.prompt_rows import PromptRows, Surrounding

if TYPE_CHECKING:
    from keeptune.engine.book import Adapters


class EncoderPromptSlot(Slot):
    """The prompts of all adapters, and the hooks on the encoder and the decoder."""

    def __init__(self, book: Adapters, embedding: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__(book)
        self.rows = PromptRows(book, self.entries, embedding)
        self.arguments = {side: list(inspect.signature(side.forward).parameters) for side in (encoder, decoder)}
        self.handles.append(encoder.register_forward_pre_hook(self.before_encoder, with_kwargs=True))
        self.handles.append(decoder.register_forward_pre_hook(self.before_decoder, with_kwargs=True))

    def around(self, count: int) -> list[Surrounding]:
        """The virtual tokens of each of `count` rows."""
        return [self.rows.around(stack) for stack in self.rows.stacks(count)]

    def before_encoder(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Puts the virtual tokens before the text."""
        given = {**dict(zip(self.arguments[encoder], args, strict=False)), **kwargs}
        embedded = given.get("inputs_embeds")
        source = given["input_ids"] if embedded is None else embedded
        stacks = self.rows.stacks(source.shape[0])
        around = self.around(source.shape[0])
        width = max(one.front + one.behind for one in around)
        if not width:
            return None
        embedded = self.rows.embedding(given["input_ids"]) if embedded is None else embedded
        order, mask = laid_out(_mask(given.get("attention_mask"), source), around, width)
        joined = torch.cat([self.rows.block(stacks, width).to(embedded.dtype), embedded], dim=1)
        given["inputs_embeds"] = joined.gather(1, order[:, :, None].expand(-1, -1, joined.shape[2]))
        given["input_ids"], given["attention_mask"] = None, mask
        return (), given

    def before_decoder(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Widens the mask over the encoder's output."""
        given = {**dict(zip(self.arguments[decoder], args, strict=False)), **kwargs}
        states: Tensor | None = given.get("encoder_hidden_states")
        if states is None:
            return None
        around = self.around(states.shape[0])
        most = max(one.front + one.behind for one in around)
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
        given["encoder_attention_mask"] = laid_out(mask, around, width)[1]
        return (), given


def laid_out(mask: Tensor, around: Sequence[Surrounding], width: int) -> tuple[Tensor, Tensor]:
    """How a row becomes [P; text; Q; tail; pads].

    Args:
        mask: `[B, T]` of the rows as given.
        around: P, Q and tail of each row; a row without virtual tokens stays as given.
        width: W.

    Returns:
        `[B, W + T]` indices into [W virtual tokens, flush right; T tokens], and the mask of the result.
    """
    tokens = mask.shape[1]
    front, behind, tail = torch.tensor(around, device=mask.device).T[:, :, None]
    first = mask.argmax(dim=1, keepdim=True) * (front + behind > 0)
    cut = mask.sum(dim=1, keepdim=True) - tail  # tokens of the text before Q
    place = torch.arange(width + tokens, device=mask.device)[None] - front
    inserted = (place >= cut) & (place < cut + behind)
    virtual = torch.where(inserted, width - behind + place - cut, width - behind + place)
    after = torch.where(place >= cut + behind, place - behind, place)
    text = (after + first) % tokens
    own = (place < 0) | inserted
    real = torch.where(own, 1, mask.gather(1, text) * (after < tokens))
    return torch.where(own, virtual, width + text), real.to(mask.dtype)


def _mask(mask: Tensor | None, source: Tensor) -> Tensor:
    return torch.ones(source.shape[:2], dtype=torch.long, device=source.device) if mask is None else mask.long()
