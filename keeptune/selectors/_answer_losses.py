"""What an answer costs a model with its request before it and without: the two numbers of instruction difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keeptune.core.example import Example
from keeptune.engine.scored import Scored
from keeptune.selectors import Context, model_of
from keeptune.selectors._states import context_length

if TYPE_CHECKING:
    from keeptune.models.load import Loaded


class AnswerLosses(NamedTuple):
    """Mean losses per answer token, in nats; not a number where there is no answer, or no room for it.

    Attributes:
        given: [N] after the request.
        alone: [N] of the same tokens after nothing but the opening of a text.
    """

    given: NDArray[np.float64]
    alone: NDArray[np.float64]


def answer_losses(examples: Sequence[Example], context: Context) -> AnswerLosses:
    """Both losses of the last answer of each example, its end token included.

    The tokens are the same in both, so the two means are over the same events. A long answer is cut at the model's
    context, in both alike.

    Raises:
        PlanError: there is no decoder (E-SELECT-MODEL).
    """
    from keeptune.engine.rows import off

    loaded = model_of(context)
    pairs = [_pair(example, loaded) for example in examples]
    rows = [row for pair in pairs if pair for row in pair]
    with off(loaded.model):
        means = _mean_losses(rows, loaded)
    found = np.full((2, len(examples)), np.nan)
    places = [place for place, pair in enumerate(pairs) if pair]
    found[0, places], found[1, places] = means[::2], means[1::2]
    return AnswerLosses(found[0], found[1])


def _pair(example: Example, loaded: Loaded) -> tuple[Scored, Scored] | None:
    """The answer behind its request, and behind the opening token alone."""
    from keeptune.data.encode import encoder_of

    if example.text is not None or not example.target:
        return None
    row = encoder_of(loaded.tokenizer).encode(example)
    last = max((place for place, learned in enumerate(row.learned) if learned), default=0)
    start = last
    while start > 1 and row.learned[start - 1]:
        start -= 1
    end = min(last + 1, context_length(loaded))
    if not 1 <= start < end:
        return None
    known = (loaded.tokenizer.bos_token_id, loaded.tokenizer.eos_token_id)
    opening = next((token for token in known if token is not None), row.tokens[0])
    return Scored(row.tokens[:end], start, row.starts), Scored((opening, *row.tokens[start:end]), 1)


def _mean_losses(rows: Sequence[Scored], loaded: Loaded) -> NDArray[np.float64]:
    """-mean log p of the scored tokens of each row; neighbours in a batch are of similar length."""
    from keeptune.engine.scoring import token_logprobs

    order = sorted(range(len(rows)), key=lambda place: (len(rows[place].tokens), place))
    found = np.empty(len(rows))
    for place, values in zip(order, token_logprobs(loaded.model, [rows[i] for i in order], 2048), strict=True):
        found[place] = -np.mean(values)
    return found
