"""One example to tokens, and which of them are learned: what the assistant says, and its end token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.borders import AddedTokens, Borders
from keeptune.data.control_tokens import ControlTokens, Span, Written, encodings, tokens_within
from keeptune.data.fork import Fork
from keeptune.data.rendering import beginning
from keeptune.data.starts import LOST, UNSAID, Starts
from keeptune.data.template import ChatTemplate, Rendered

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """One row of tokens.

    Attributes:
        id: of the Example; pieces of a split document carry `#2`, `#3`, ...
        source: name of the source.
        tokens: ids, with everything the template or the tokenizer adds.
        learned: whether token i is a training target (predicted from the tokens before it); never the first.
        answer: of a conversation, what its last answer says; a head learns it as a label.
        starts: where its texts and answers begin, as far as that is known.
        fork: of a pair of answers to one prompt, where the two endings begin; None: the row has one.
    """

    id: str
    source: str
    tokens: tuple[int, ...]
    learned: tuple[bool, ...]
    answer: str | None = None
    starts: Starts = UNSAID
    fork: Fork | None = None

    @property
    def endings(self) -> tuple[Encoded, ...]:
        """The whole rows that it stands for: itself, or the prompt with the better and with the worse answer."""
        if self.fork is None:
            return (self,)
        shared, second = self.fork
        better = replace(self, tokens=self.tokens[:second], learned=self.learned[:second], fork=None)
        tokens = (*self.tokens[:shared], *self.tokens[second:])
        learned = (*self.learned[:shared], *self.learned[second:])
        return better, replace(self, id=f"{self.id}#worse", tokens=tokens, learned=learned, answer=None, fork=None)

    @property
    def longest(self) -> int:
        """Tokens of its longest ending."""
        return max(len(row.tokens) for row in self.endings)

    @property
    def labels(self) -> list[int]:
        """Ids with -100 where nothing is learned; not shifted (label i stands at token i)."""
        return [token if kept else IGNORED for token, kept in zip(self.tokens, self.learned, strict=True)]


@dataclass(frozen=True)
class Request:
    """What a model is to answer.

    Attributes:
        tokens: ids, with everything the template or the tokenizer adds.
        starts: as those of `Encoded`; its last answer begins behind all tokens.
    """

    tokens: tuple[int, ...]
    starts: Starts = UNSAID


@dataclass(frozen=True)
class _Ready:
    """What is tokenized, the conversation that it was, and where its parts lie where counting can tell."""

    written: Written
    rendered: Rendered | None = None
    borders: Borders | None = None


class Encoder:
    """Encodes examples with one tokenizer and one template; make one and use it for all rows.

    Args:
        tokenizer: a fast tokenizer of transformers.
        template: as `ChatTemplate`.
    """

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self._name = template
        self._chat: ChatTemplate | None = None
        self._control = ControlTokens(tokenizer)
        self._added = AddedTokens(tokenizer)
        self._begin = tuple(beginning(tokenizer))

    @property
    def chat(self) -> ChatTemplate:
        """The template, made when the first conversation comes: plain text needs none."""
        if self._chat is None:
            self._chat = ChatTemplate(self.tokenizer, self._name)
        return self._chat

    @property
    def used_chat(self) -> ChatTemplate | None:
        """The template if a conversation has needed it."""
        return self._chat

    @property
    def end_id(self) -> int:
        """The token that ends a turn."""
        return int(self.chat.end_id)

    def encode(self, example: Example) -> Encoded:
        """One example, whole.

        A conversation is learned on its assistant turns and their end tokens, all turns in one pass. A document is
        learned whole, with the end-of-sequence token behind it; its first token is never a target.

        Raises:
            DataError: the template cannot write the conversation; the place names the row's line.
        """
        [found] = self.encode_many([example])
        if isinstance(found, DataError):
            raise found
        return found

    def encode_many(self, examples: Sequence[Example]) -> list[Encoded | DataError]:
        """As `encode`, some dozens at once, which is faster; an error stands in the place of its row."""
        talks = [example.messages for example in examples if example.text is None]
        rendered = iter(self.chat.render_many(talks) if talks else ())
        ready = [self._ready(one, None if one.text is not None else next(rendered)) for one in examples]
        made = iter(encodings([one.written for one in ready if not isinstance(one, DataError)]))
        return [
            one if isinstance(one, DataError) else self._row(example, one, next(made))
            for example, one in zip(examples, ready, strict=True)
        ]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation with the generation prompt, as served."""
        return list(self.request(messages).tokens)

    def request(self, messages: Sequence[Message]) -> Request:
        """The same, and where its texts and answers begin."""
        rendered = self.chat.render(messages, prompt=True)
        written = self.chat.control.written(rendered.text, rendered.contents)
        [encoding] = encodings([replace(written, places=bool(rendered.texts or rendered.answers))])
        starts = starts_of(partial(tokens_within, encoding, rendered.text), rendered)
        return Request(tuple(encoding.ids), Starts(starts.texts, (*starts.answers, len(encoding.ids))))

    def stop_ids(self) -> set[int]:
        """Tokens at which generation ends: the template's end-of-turn tokens and the end-of-sequence token."""
        end = self.tokenizer.eos_token_id
        return set(self.chat.end_ids) | (set() if end is None else {int(end)})

    def _ready(self, example: Example, rendered: Rendered | DataError | None) -> _Ready | DataError:
        """What is tokenized, or why nothing can be."""
        try:
            if isinstance(rendered, DataError):
                raise rendered
            if rendered is None:
                text = str(example.text)
                return _Ready(replace(self._control.written(text, [(0, len(text))]), places=False))
            written = self.chat.control.written(rendered.text, rendered.contents)
            borders = None
            if written.text is rendered.text and not rendered.texts:
                letters = (letter for span in rendered.learned for letter in span)
                asked = (letter for letter in rendered.answers if letter != LOST)
                borders = self._added.borders(rendered.text, (*letters, *asked))
            return _Ready(replace(written, places=borders is None), rendered, borders)
        except DataError as error:
            where = {"line": example.line, "key": example.source or None, **error.where}
            return DataError(error.what, code=error.code, where=where, why=error.why, fix=error.fix)

    def _row(self, example: Example, ready: _Ready, encoding: Any) -> Encoded:
        ids: list[int] = encoding.ids
        rendered = ready.rendered
        if rendered is None:
            end = [] if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id)]
            tokens = (*self._begin, *ids, *end)
            return Encoded(example.id, example.source, tokens, _never_first([True] * len(tokens)))
        within = self._within(ready, rendered, encoding)
        learned = [False] * len(ids)
        for places in map(within, rendered.learned):
            learned[places.start : places.stop] = [True] * len(places)
        mask = _never_first(learned)
        answer = example.target if any(mask) else None
        return Encoded(example.id, example.source, tuple(ids), mask, answer, starts_of(within, rendered))

    def _within(self, ready: _Ready, rendered: Rendered, encoding: Any) -> Callable[[Span], range]:
        """What tells the tokens of a span: added tokens that were counted, else the letters of each token."""
        if ready.borders is not None:
            behind = self._added.tokens_behind(encoding.ids, ready.borders)
            if behind is not None:
                return lambda span: range(behind[span[0]], behind[span[1]])
            [encoding] = encodings([replace(ready.written, places=True)])
        return partial(tokens_within, encoding, rendered.text)


def starts_of(within: Callable[[Span], range], rendered: Rendered) -> Starts:
    """Letters to tokens; no answer is a row's first token, since nothing predicts that."""
    texts, answers = (
        [within((letter, letter)).start for letter in letters if letter != LOST]
        for letters in (rendered.texts, rendered.answers)
    )
    lost = (LOST,) * (len(answers) < len(rendered.answers))
    return Starts(tuple(texts), (*lost, *(max(1, token) for token in answers)))


def tokens_at(encoding: Any, text: str, letters: Sequence[int]) -> tuple[int, ...]:
    """The token that covers each letter; one that covers letters before it too counts as its own."""
    return tuple(tokens_within(encoding, text, (letter, letter)).start for letter in letters)


def _never_first(learned: list[bool]) -> tuple[bool, ...]:
    """Nothing stands before the first token to predict it from."""
    return tuple([False, *learned[1:]][: len(learned)])


def as_messages(turns: Sequence[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    """Turns given as mappings `{"role", "content", ...}` or as Messages.

    Raises:
        DataError: there are none (E-DATA-ROLES), one has no role or no content (E-DATA-KEY), or they are no texts
            (E-DATA-TYPE).
    """
    if not turns:
        raise DataError(
            "a conversation without turns.", code="E-DATA-ROLES", fix="It starts with the system or the user."
        )
    return tuple(
        turn if isinstance(turn, Message) else _message(turn, number) for number, turn in enumerate(turns, start=1)
    )


def _message(turn: Any, number: int) -> Message:
    """A turn; one that calls tools may say nothing beside."""
    fix = 'Write each turn as {"role": "user", "content": "..."}.'
    if not isinstance(turn, Mapping):
        raise DataError(f"turn {number} is no mapping but {turn!r:.40}.", code="E-DATA-TYPE", fix=fix)
    if turn.get("tool_calls") and turn.get("content") is None:
        turn = {**turn, "content": ""}
    for key in ("role", "content"):
        if key not in turn:
            raise DataError(f"turn {number} has no '{key}'.", code="E-DATA-KEY", fix=fix)
        if not isinstance(turn[key], str):
            raise DataError(f"'{key}' of turn {number} is no text but {turn[key]!r:.40}.", code="E-DATA-TYPE", fix=fix)
    return Message(turn["role"], turn["content"], {key: turn[key] for key in turn if key not in ("role", "content")})
