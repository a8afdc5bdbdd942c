"""Pseudo-log-likelihood: how likely an encoder finds tokens, each masked in turn.

Salazar et al. 2020, arXiv:1910.14659:

    sum over scored t of log p(token t | all other tokens of the row, with the mask at t)

It is no probability of the text, but it compares texts: which ending fits, whether a statement is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from keeptune.data.encoder import Encoded
from keeptune.data.packing import filled
from keeptune.engine.batch import pack
from keeptune.engine.cloze import cloze_logits, mask_of
from keeptune.engine.generation import evaluating
from keeptune.engine.packed import packed_hidden
from keeptune.engine.scored import Scored


def pseudo_logprobs(model: PreTrainedModel, rows: Sequence[Scored], batch_tokens: int = 8192) -> list[float]:
    """The sum of each row over its tokens from `start` on, special ones left out; natural logarithms.

    Args:
        model: an encoder with a masked-language-model head; who serves it now, serves every row.
        rows: framed texts, and from which token on they are scored.
        batch_tokens: tokens of a packed batch.

    Raises:
        PlanError: the model has no such head, or no mask (E-MODEL-CLOZE).
    """
    mask, special = mask_of(model)
    asked = [
        (number, place)
        for number, row in enumerate(rows)
        for place in range(row.start, len(row.tokens))
        if row.tokens[place] not in special
    ]
    sums = [0.0] * len(rows)
    with torch.inference_mode(), evaluating(model):
        for batch in filled(enumerate(len(rows[number].tokens) for number, _ in asked), batch_tokens):
            places = [asked[index] for index in batch]
            for (number, _), value in zip(places, _values(model, rows, places, mask), strict=True):
                sums[number] += value
    return sums


def _values(
    model: PreTrainedModel, rows: Sequence[Scored], places: Sequence[tuple[int, int]], mask: int
) -> Iterator[float]:
    """The logarithm of p at each place."""
    packed = pack([_masked(rows[number].tokens, place, mask) for number, place in places])
    hidden = packed_hidden(model, packed)
    at = torch.tensor([start + place for start, (_, place) in zip(packed.offsets, places, strict=False)])
    logits = cloze_logits(model, hidden[at.to(hidden.device)]).float()
    targets = torch.tensor([rows[number].tokens[place] for number, place in places], device=logits.device)
    yield from (logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=1)).tolist()


def _masked(tokens: Sequence[int], place: int, mask: int) -> Encoded:
    shown = (*tokens[:place], mask, *tokens[place + 1 :])
    return Encoded(id="", source="", tokens=shown, learned=(False,) * len(shown))
