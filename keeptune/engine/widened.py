"""A padded batch with its virtual tokens: where everything goes, what its mask and positions become, and back.

Shapes: B rows, T tokens of the call, W virtual tokens of the row that has most, C columns of the cache, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keeptune.core.errors import PlanError
from keeptune.engine.cache_notes import TEXT, VIRTUAL
from keeptune.engine.inserted import Inserted, inserted
from keeptune.engine.prompt_rows import Group


class Added(NamedTuple):
    """The virtual tokens of one call.

    Attributes:
        layout: where everything is.
        keep: `[B, T]` which states are those of the tokens; None: the last T.
        width: W.
    """

    layout: Inserted
    keep: Tensor | None
    width: int

    def aligned(self, states: Tensor) -> Tensor:
        """`[B, W + T, D]` of the body to those of the tokens that it was given."""
        if self.keep is None:
            return states[:, self.width :]
        return states.gather(1, self.keep[:, :, None].expand(-1, -1, states.shape[2]))


def text_mask(given: Mapping[str, Any], rows: int, held: int, tokens: int) -> Tensor:
    """`[B, T']`: the mask over the text, cached tokens included.

    Args:
        given: the arguments of the body.
        rows: B.
        held: tokens of the text in the cache.
        tokens: of this call.

    Raises:
        PlanError: a mask of another shape, or tokens that neither the call nor its cache has (E-PROMPT-MASK).
    """
    mask: Tensor | None = given.get("attention_mask")
    if mask is not None and tuple(mask.shape) != (rows, held + tokens):
        raise PlanError(
            f"a soft prompt cannot be placed with an attention mask of shape {tuple(mask.shape)}.",
            code="E-PROMPT-MASK",
            fix=f"Pass one number per token of the text, cached ones included: {(rows, held + tokens)}.",
        )
    positions: Tensor | None = given.get("position_ids")
    if mask is None and held and positions is not None and int(positions.max()) >= held + tokens:
        raise PlanError(
            f"a call goes on at position {int(positions.min())}, and its cache holds {held} tokens of the text.",
            code="E-PROMPT-MASK",
            why="`generate` leaves out as many tokens as its cache has columns, and virtual tokens are columns too.",
            fix="Give `generate` the new tokens alone, and an attention mask over all tokens of the text.",
        )
    return torch.ones(rows, held + tokens, dtype=torch.long) if mask is None else mask.long()


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


def widened(mask: Tensor, kinds: Tensor) -> Tensor:
    """`[B, C]`: the mask over a cache.

    Args:
        mask: of its text, as many tokens for each row.
        kinds: `[B, C]` what its columns are.
    """
    return (kinds == VIRTUAL).to(mask.dtype).masked_scatter(kinds == TEXT, mask)


def laid_out(groups: Sequence[Sequence[Group]], mask: Tensor, width: int) -> Added:
    """Each row's virtual tokens next to its text, flush right.

    Args:
        groups: of each row.
        mask: `[B, T]` of this call's tokens.
        width: W.
    """
    most, tokens, first = max(map(len, groups)), mask.shape[1], mask.argmax(dim=1, keepdim=True)
    table = [[*own, *[Group(own[-1].cut if own else 0, 0, 0, False)] * (most - len(own))] for own in groups]
    numbers = torch.tensor([[[group.cut, group.size, group.answers] for group in own] for own in table])
    cuts, counts, answers = numbers.to(mask.device).unbind(dim=2)
    layout = inserted(first + cuts, counts, tokens, width)
    right = width - counts.sum(dim=1, keepdim=True)
    vectors, text = ((columns + right) % (width + tokens) for columns in layout[:2])
    inside = bool((cuts * counts).any())
    keep = text.scatter_add(1, (first + cuts - 1).clamp(min=0), counts * answers) if inside else None
    return Added(Inserted(vectors, text, layout.real), keep, width)
