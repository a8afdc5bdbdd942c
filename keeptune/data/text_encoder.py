"""Rows for models that have no chat template: encoders read the request, encoder-decoders write the answer too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from keeptune.core.errors import DataError
from keeptune.core.example import TEXTS, Example, Message
from keeptune.data.control_tokens import ControlTokens, encodings
from keeptune.data.encoder import Encoded, Request, tokens_at
from keeptune.data.starts import Starts


class TextEncoder:
    """Encodes examples as plain text in the tokenizer's own frame of special tokens (`[CLS] ... [SEP]`).

    Control tokens that stand in the text as letters stay letters. A request of several texts is written for an encoder
    as its tokenizer joins two: `[CLS] a [SEP] b [SEP]`.

    Args:
        tokenizer: a fast tokenizer of transformers.
        answers: whether the answer follows the request, as the text that an encoder-decoder's decoder learns.
    """

    used_chat = None

    def __init__(self, tokenizer: Any, *, answers: bool) -> None:
        self.tokenizer, self.answers = tokenizer, answers
        self._control = ControlTokens(tokenizer)
        self._before, self._behind = frame(tokenizer)
        self._between = () if answers else separator(tokenizer)

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    def encode(self, example: Example) -> Encoded:
        """One example: the turns before the answer, one per line; of a document, its text.

        Raises:
            DataError: an encoder-decoder has no form for a document (E-DATA-DOCUMENT).
        """
        if example.text is not None:
            if self.answers:
                raise DataError(
                    "a document has no request and answer, which an encoder-decoder learns from.",
                    code="E-DATA-DOCUMENT",
                    where={"line": example.line, "key": example.source or None},
                    fix="Use conversations, or a decoder.",
                )
            return Encoded(example.id, example.source, *self._document(self._ids(example.text)))
        request = self.request(example.prompt)
        answer = (*self._ids(example.target), *self._behind) if self.answers else ()
        learned = (False,) * len(request.tokens) + (True,) * len(answer)
        tokens = (*request.tokens, *answer)
        return Encoded(example.id, example.source, tokens, learned, example.target, request.starts)

    def pieces(self, row: Encoded, context: int) -> list[Encoded]:
        """A document in consecutive pieces of at most `context` tokens, each in the frame; none shares a token."""
        body = row.tokens[len(self._before) : len(row.tokens) - len(self._behind)]
        room = context - len(self._before) - len(self._behind)
        found = []
        for number, start in enumerate(range(0, len(body), room)):
            tokens, learned = self._document(body[start : start + room])
            found.append(Encoded(row.id if number == 0 else f"{row.id}#{number + 1}", row.source, tokens, learned))
        return found

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the request."""
        return list(self.request(messages).tokens)

    def request(self, messages: Sequence[Message]) -> Request:
        """The request, and where its texts begin if no separators say so."""
        texts = messages[0].extra.get(TEXTS) if len(messages) == 1 else None
        if texts is None or not self._between:
            return self._lines(messages)
        joined = self._ids(texts[0])
        for text in texts[1:]:
            joined += [*self._between, *self._ids(text)]
        return Request((*self._before, *joined, *self._behind))

    def stop_ids(self) -> set[int]:
        """Tokens at which generation ends."""
        end = self.tokenizer.eos_token_id
        return set() if end is None else {int(end)}

    def _document(self, body: Sequence[int]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Tokens in the frame, and which of them are the document's own."""
        outside = (False,) * len(self._before), (False,) * len(self._behind)
        return (*self._before, *body, *self._behind), (*outside[0], *(True for _ in body), *outside[1])

    def _lines(self, messages: Sequence[Message]) -> Request:
        """One turn per line; the texts are those of the last turn that has several."""
        text, letters = "", tuple[int, ...]()
        for number, turn in enumerate(messages):
            text += "\n" if number else ""
            letters = tuple(len(text) + place for place in turn.later_texts) or letters
            text += turn.content
        if not letters:
            return Request((*self._before, *self._ids(text), *self._behind))
        [encoding] = encodings([self._control.written(text, [(0, len(text))])])
        starts = Starts(tuple(len(self._before) + place for place in tokens_at(encoding, text, letters)))
        return Request((*self._before, *encoding.ids, *self._behind), starts)

    def _ids(self, text: str) -> list[int]:
        return list(self._control.ids_of(text, [(0, len(text))]))


def by_answer(example: Example) -> Iterator[Example]:
    """The conversation up to each answer that is learned; the first keeps its id, the others get `#2`, `#3`, ..."""
    if example.text is not None:
        yield example
        return
    turns = example.messages
    answers = [
        place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.extra.get("weight", 1) != 0
    ]
    for number, place in enumerate(answers, start=1):
        name = example.id if number == 1 else f"{example.id}#{number}"
        last = place == answers[-1]
        yield replace(
            example, id=name, messages=turns[: place + 1], rejected=example.rejected if last else None
        )  # fmt: skip


def frame(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and behind a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return tuple(whole[:start]), tuple(whole[start + len(bare) :])


def separator(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens between two texts; none where the tokenizer puts them end to end."""
    before, behind = frame(tokenizer)
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a", "a")["input_ids"]
    between = whole[len(before) + len(bare) : len(whole) - len(behind) - len(bare)]
    return tuple(between) if set(between) <= set(tokenizer.all_special_ids) else ()


def has_types(tokenizer: Any) -> bool:
    """Whether the tokenizer tells the tokens of a second text from those of the first."""
    return any(tokenizer("a", "a", return_token_type_ids=True)["token_type_ids"])
