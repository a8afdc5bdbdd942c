"""Examples to rows of tokens, with the loss where the assistant speaks: the functions that other layers call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.encoder import Encoded, Encoder, as_messages
from keeptune.data.fitting import EncodedSet, Fitting, Problem, TooLong
from keeptune.data.image_encoder import ImageEncoder
from keeptune.data.pairs import paired, with_worse
from keeptune.data.text_encoder import TextEncoder, by_answer

__all__ = [
    "Encoded",
    "EncodedSet",
    "Encoder",
    "Problem",
    "TooLong",
    "encode",
    "encode_all",
    "encode_many",
    "encode_prompt",
    "encoder_of",
    "stop_ids",
    "together",
]

ROWS_AT_ONCE = 64
LETTERS_AT_ONCE = 1 << 18
"""Rows are encoded in groups: one step for all of a group, then the next, so that each step's tables stay in the
processor's cache. A long row has a group of its own."""


def encoder_of(
    tokenizer: Any, template: str | None = None, kind: str = "decoder"
) -> Encoder | TextEncoder | ImageEncoder:
    """What encodes rows for a model of that kind (`keeptune.models.anatomy.Anatomy.kind`)."""
    if kind == "image":
        return ImageEncoder()
    return Encoder(tokenizer, template) if kind == "decoder" else TextEncoder(tokenizer, answers=kind != "encoder")


def encode(
    example: Example | Sequence[Message | Mapping[str, Any]], tokenizer: Any, template: str | None = None
) -> Encoded:
    """Encodes one example or conversation; `Encoder` is the form for many."""
    whole = example if isinstance(example, Example) else Example("", as_messages(example))
    return Encoder(tokenizer, template).encode(whole)


def encode_prompt(
    messages: Sequence[Message | Mapping[str, Any]], tokenizer: Any, template: str | None = None
) -> list[int]:
    """Ids of a conversation that the model is to continue."""
    return Encoder(tokenizer, template).prompt(as_messages(messages))


def stop_ids(tokenizer: Any, template: str | None = None) -> set[int]:
    """Tokens at which generation ends; see `Encoder.stop_ids`."""
    return Encoder(tokenizer, template).stop_ids()


def together(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Examples in order, in groups that are encoded at once."""
    group: list[Example] = []
    letters = 0
    for example in examples:
        own = sum(len(turn.content) for turn in example.messages) if example.text is None else len(example.text)
        if group and (len(group) == ROWS_AT_ONCE or letters + own > LETTERS_AT_ONCE):
            yield group
            group, letters = [], 0
        group.append(example)
        letters += own
    if group:
        yield group


def encode_many(
    encoder: Encoder | TextEncoder | ImageEncoder, examples: Sequence[Example], *, pairs: bool = False
) -> list[Encoded | DataError]:
    """The row of each example, or why it has none; with `pairs`, one with a worse answer gets two endings."""
    if pairs:
        return _pairs(encoder, examples)
    if isinstance(encoder, Encoder):
        return encoder.encode_many(examples)
    found: list[Encoded | DataError] = []
    for example in examples:
        try:
            found.append(encoder.encode(example))
        except DataError as error:
            found.append(error)
    return found


def _pairs(encoder: Encoder | TextEncoder | ImageEncoder, examples: Sequence[Example]) -> list[Encoded | DataError]:
    worse = iter(encode_many(encoder, [with_worse(one) for one in examples if one.rejected is not None]))
    found: list[Encoded | DataError] = []
    for example, row in zip(examples, encode_many(encoder, examples), strict=True):
        other = None if example.rejected is None else next(worse)
        if other is None or isinstance(row, DataError):
            found.append(row)
        elif isinstance(other, DataError):
            found.append(other)
        else:
            try:
                found.append(paired(row, other, example.line))
            except DataError as error:
                found.append(error)
    return found


def encode_all(
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    too_long: TooLong,
    context: int,
    template: str | None = None,
    most_dropped: float = 0.5,
    gather: bool = False,
    kind: str = "decoder",
    pairs: bool = False,
) -> EncodedSet:
    """Encodes every example; a row longer than `context` meets the policy.

    - drop: it is left out.
    - cut: its tail is left out. If no learned token is left, the row teaches nothing and is dropped.
    - split: a document becomes consecutive rows that overlap by one token, so that every token but the document's first
      is learned exactly once. A conversation has no sound place to split and is dropped.
    - refuse: the data is refused.

    A decoder learns all answers of a conversation in one row. An encoder-decoder, whose encoder sees the whole request
    at once, gets a row for each answer; `read` counts those.

    Args:
        examples: of one source.
        tokenizer: a fast tokenizer of transformers.
        too_long: the policy.
        context: longest row in tokens.
        template: as `Encoder`.
        most_dropped: share of rows that may be dropped before that is an error.
        gather: rows that the template cannot write are counted as dropped and named instead of raised (for `check`).
        kind: of the model, as `encoder_of`.
        pairs: rows that have a worse answer beside their own hold both, and neither is cut.

    Raises:
        DataError: E-DATA-LONG (refuse), E-DATA-NOTHING (no row teaches anything), E-DATA-DROPPED (too many dropped),
            or what `Encoder.encode` raises.
    """
    assert context >= 2, "a row needs a token to predict from and one to predict"
    encoder = encoder_of(tokenizer, template, kind)
    fitting = Fitting(too_long, context, encoder)
    parts = examples if kind != "encoder_decoder" else (part for one in examples for part in by_answer(one))
    for group in together(parts):
        for example, row in zip(group, encode_many(encoder, group, pairs=pairs), strict=True):
            if not isinstance(row, DataError):
                fitting.add(row, example)
            elif gather:
                fitting.refuse(row, example)
            else:
                raise row
    return fitting.result(most_dropped)
