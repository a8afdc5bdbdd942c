"""The chat template: conversation to text, and which of that text the model must learn to write.

Learned is what the model has to produce itself: from the end of the generation prompt to the end of the
end-of-turn token. With `{% generation %}` in the template its author says so; otherwise marks around every
content (see `marks`) show where a turn stands in the whole conversation, rendered at once, so that a template which
writes earlier turns differently from the last one is read correctly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from keeptune.core.errors import DataError
from keeptune.core.example import TEXTS, Message
from keeptune.data.control_tokens import ControlTokens, Span
from keeptune.data.marks import MARK, Marked, mark, unmark
from keeptune.data.rendering import Rendering, Tools, dropped, no_end
from keeptune.data.starts import LOST

REASONING = ("reasoning_content", "reasoning", "thinking")
NOT_FOR_TEMPLATES = ("weight", "tools", TEXTS)
TOKEN_LIKE = re.compile(r"<\|\w+\|>")
PROBE = ({"role": "user", "content": "Question"}, {"role": "assistant", "content": "Reply"})


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: what is tokenized; nothing is added to it.
        learned: spans that the model learns to write.
        contents: spans that come from the conversation, in which a control token's text is text.
        texts: letters at which the texts of the last turn that has several begin, but the first.
        answers: letters at which the assistant's turns begin, in order; `LOST` in the place of one that is not found.
    """

    text: str
    learned: tuple[Span, ...]
    contents: tuple[Span, ...]
    texts: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()


class ChatTemplate:
    """How one tokenizer writes conversations.

    Args:
        tokenizer: a fast tokenizer of transformers.
        name: `plain` for `User: ...` / `Assistant: ...` lines; None for the tokenizer's own template, or `plain` when
            it has none.

    Attributes:
        notes: what the user should know about the choice of the template and about what it writes.
        control: the tokenizer's control tokens.
        endings: what may close a turn, longest first: the text behind an answer up to the end of the end-of-turn token,
            or of the last of several that follow each other.
        end_ids: of the tokens in the longest ending.

    Raises:
        ModelError: E-TEMPLATE-NO-END, E-TOKENIZER-SLOW.
    """

    def __init__(self, tokenizer: Any, name: str | None = None) -> None:
        self.rendering = Rendering(tokenizer, name)
        chosen = self.rendering.name == "plain" and name is None
        text = "The tokenizer has no chat template: plain `User:` / `Assistant:` lines are used."
        self.notes: list[str] = [text] if chosen else []
        probe = unmark(self.rendering.text(mark(PROBE), prompt=False))
        self.control = ControlTokens(tokenizer, probe.text)
        self.notes += _foreign_tokens(tokenizer, probe.text)
        end = probe.ends[1][-1] if probe.ends.get(1) else len(probe.text)
        self.endings = _endings(self.control.pattern, probe.text[end:])
        if not self.endings:
            raise no_end(tokenizer)
        self._closing = [re.compile(r"\s*" + re.escape(ending.strip())) for ending in self.endings]
        self.end_ids = [self.control.ids[token] for token in self.control.pattern.findall(self.endings[0])]

    @property
    def end_id(self) -> int:
        """Id of the token that closes a turn, the last where several do."""
        return self.end_ids[-1]

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> Rendered:
        """Writes a conversation.

        Args:
            messages: the turns, in order.
            prompt: ends with the generation prompt; then nothing is learned.

        Raises:
            DataError: the template leaves something out (E-TEMPLATE-DROPS), refuses the conversation
                (E-TEMPLATE-ROLES), or writes it such that the answers cannot be found again (E-TEMPLATE-UNSTABLE).
        """
        turns, tools = self._turns(messages)
        stated: list[Span] | None = None
        if not prompt and self._states_answers(messages):
            text, stated = self.rendering.generated(turns, tools)
        else:
            text = self.rendering.text(turns, prompt=prompt, tools=tools)
        marked = unmark(self.rendering.text(mark(turns), prompt=prompt, tools=tools))
        return self._read(messages, turns, tools, text, stated, marked, prompt=prompt)

    def render_many(self, conversations: Sequence[Sequence[Message]]) -> list[Rendered | DataError]:
        """As `render`, some dozens at once, which is faster; an error stands in the place of its conversation."""
        stated = self.rendering.marks_answers
        alike: dict[int, list[dict[str, Any]]] = {}
        for number, messages in enumerate(conversations):
            with suppress(DataError):
                turns, tools = self._turns(messages)
                if not tools and self._states_answers(messages) == stated:
                    alike[number] = turns
        plain = self.rendering.together(list(alike.values()), answers=stated)
        marked = self.rendering.together([mark(turns) for turns in alike.values()])
        written = zip(alike, plain, marked, strict=True) if plain is not None and marked is not None else ()
        ready = {number: (text, spans, other) for number, (text, spans), (other, _) in written}
        found: list[Rendered | DataError] = []
        for number, messages in enumerate(conversations):
            try:
                if number in ready:
                    text, spans, other = ready[number]
                    said = spans if stated else None
                    found.append(self._read(messages, alike[number], None, text, said, unmark(other)))
                else:
                    found.append(self.render(messages))
            except DataError as error:
                found.append(error)
        return found

    def _states_answers(self, messages: Sequence[Message]) -> bool:
        """Whether the template says itself what of this conversation is learned."""
        return self.rendering.marks_answers and all(message.extra.get("weight", 1) for message in messages)

    def _read(
        self,
        messages: Sequence[Message],
        turns: list[dict[str, Any]],
        tools: Tools,
        text: str,
        stated: list[Span] | None,
        marked: Marked,
        *,
        prompt: bool = False,
    ) -> Rendered:
        """What of a rendered text is learned, and what comes from the conversation."""
        same = marked.text == text
        for number, turn in enumerate(turns):
            if turn["content"].strip() and not marked.ends.get(number):
                raise dropped(turn["role"], number)
            if self.control.pattern.search(turn["content"]) and not (same and marked.starts.get(number)):
                raise _unstable(f"turn {number + 1} holds the text of a control token, and the template rewrites it")
        texts, contents = (_later_texts(messages, marked), tuple(marked.contents())) if same else ((), ())
        found = marked if same else None
        if prompt:
            return Rendered(text, (), contents, texts, tuple(self._earlier(turns, tools, found, text)))
        _refuse_lost_thoughts(turns, text)
        if stated is not None:
            learned = [self._to_the_end(*span, text) for span in stated]
            return Rendered(text, tuple(learned), contents, texts, tuple(start for start, _ in learned))
        spans = self._learned(messages, turns, tools, found, text)
        answers = [
            spans[number][0] if number in spans else self._begin(turns, number, tools, found, text)
            for number in _answers(turns)
        ]
        return Rendered(text, tuple(spans.values()), contents, texts, tuple(answers))

    def _turns(self, messages: Sequence[Message]) -> tuple[list[dict[str, Any]], Tools]:
        """The mappings that templates expect, without what is not for them; refuses what this one would lose."""
        tools = messages[0].extra.get("tools") if messages else None
        if tools and "tools" not in self.rendering.source:
            raise dropped("tool definitions", 0)
        turns = []
        for number, message in enumerate(messages):
            given = message.to_dict().items()
            turn = {key: value for key, value in given if key not in NOT_FOR_TEMPLATES and value is not None}
            if turn.get("tool_calls") and "tool_calls" not in self.rendering.source:
                raise dropped("tool calls", number)
            if any(turn.get(key) for key in REASONING) and not any(key in self.rendering.source for key in REASONING):
                raise dropped("reasoning", number, "Training would lose it without a word.")
            beside = {key: value for key, value in turn.items() if key not in ("role", "content")}
            if not turn["content"].isascii() and MARK.search(turn["content"]):
                raise DataError(
                    f"turn {number + 1} uses private characters of plane 16.",
                    code="E-DATA-TEXT",
                    fix="Take these characters out.",
                )
            if beside and self.control.pattern.search(repr(beside)):
                raise DataError(
                    f"turn {number + 1} holds the text of a control token outside its content.",
                    code="E-DATA-SPECIAL",
                    why="Inside tool calls and reasoning it cannot be kept apart from the template's own.",
                    fix="Take it out, or delete the row.",
                )
            turns.append(turn)
        return turns, tools

    def _learned(
        self, messages: Sequence[Message], turns: list[dict[str, Any]], tools: Tools, marked: Marked | None, text: str
    ) -> dict[int, Span]:
        """The span of each turn that is learned."""
        answers = [number for number in _answers(turns) if messages[number].extra.get("weight", 1)]
        return {number: self._span(turns, number, tools, marked, text) for number in answers}

    def _begin(self, turns: list[dict[str, Any]], number: int, tools: Tools, marked: Marked | None, text: str) -> int:
        """Where a turn of the assistant begins that nobody learns, so that it may be lost."""
        try:
            return self._span(turns, number, tools, marked, text)[0]
        except DataError:
            return LOST

    def _earlier(self, turns: list[dict[str, Any]], tools: Tools, marked: Marked | None, text: str) -> Iterator[int]:
        """Where each answer in a prompt begins: behind what the prompt ends with, or it is looked for."""
        header = marked.text[marked.last_end()[1] :] if marked else ""
        for number in _answers(turns):
            before = marked.ends.get(number - 1) if marked else None
            if before and header and text.startswith(header, before[-1]):
                yield before[-1] + len(header)
            else:
                yield self._begin(turns, number, tools, marked, text)

    def _span(self, turns: list[dict[str, Any]], number: int, tools: Tools, marked: Marked | None, text: str) -> Span:
        if marked is None:
            return self._span_by_prefix(turns, number, tools, text)
        return self._span_by_marks(turns, number, tools, marked)

    def _span_by_marks(self, turns: list[dict[str, Any]], number: int, tools: Tools, marked: Marked) -> Span:
        """From the end of the generation prompt, as the template writes it after the turns before, to the ending."""
        before = unmark(self.rendering.text(mark(turns[:number]), prompt=True, tools=tools))
        turn, place = before.last_end()
        header = before.text[place:]
        ends = marked.ends.get(number, ())
        anchors = [end for end in marked.ends.get(turn, ()) if not ends or end <= ends[-1]]
        if not anchors:
            raise _unstable(f"turn {turn + 1} cannot be found before its answer")
        start = anchors[-1] + self._follows(header, marked.text[anchors[-1] : self._answer(marked, number)], number)
        if ends and not turns[number].get("tool_calls"):
            return self._to_the_end(start, ends[-1], marked.text)
        until = unmark(self.rendering.text(mark(turns[: number + 1]), prompt=False, tools=tools))
        return self._to_the_last_control(until.text[until.ends[turn][-1] + start - anchors[-1] :], start, marked.text)

    def _follows(self, header: str, literal: str, number: int) -> int:
        """How much of the generation prompt stands before an answer; a prompt that opens a thought may not, in whole.

        Args:
            header: the generation prompt, from the end of the turn before.
            literal: what the template writes there in the conversation, up to the answer.
            number: of the turn.
        """
        pairs = zip(header, literal, strict=False)
        length = next(
            (place for place, (one, other) in enumerate(pairs) if one != other), min(len(header), len(literal))
        )
        rest = header[length:]
        if any("think" not in token for token in self.control.pattern.findall(rest)) or (rest and not length):
            raise _unstable(f"the answer of turn {number + 1} does not follow the generation prompt")
        note = f"Some answers do not follow the whole generation prompt: it goes on with {rest!r}."
        if rest and note not in self.notes:
            self.notes.append(note)
        return length

    def _answer(self, marked: Marked, number: int) -> int:
        """Where the template can have written no more of its own: the answer's start, or its end when that is cut."""
        starts, ends = marked.starts.get(number, ()), marked.ends.get(number, ())
        return starts[-1] if starts else ends[-1] if ends else len(marked.text)

    def _span_by_prefix(self, turns: list[dict[str, Any]], number: int, tools: Tools, text: str) -> Span:
        """Differences of whole renderings, sound only when each is a prefix of the next."""
        before = self.rendering.text(turns[:number], prompt=True, tools=tools)
        until = self.rendering.text(turns[: number + 1], prompt=False, tools=tools)
        if not text.startswith(before) or not until.startswith(before):
            raise _unstable(f"turn {number + 1} is written differently once more turns follow")
        return self._to_the_last_control(until[len(before) :], len(before), text)

    def _to_the_last_control(self, turn: str, start: int, text: str) -> Span:
        """The span of a turn that is not only content (tool calls): it ends with its last control token."""
        found = list(self.control.pattern.finditer(turn))
        end = found[-1].end() if found else len(turn)
        if text[start : start + end] != turn[:end]:
            raise _unstable("a turn of the assistant is written differently once more turns follow")
        return start, start + end

    def _to_the_end(self, start: int, end: int, text: str) -> Span:
        """The span up to the end-of-turn token, which stands behind it or already closes it."""
        for ending in self._closing:
            behind = ending.match(text, end)
            if behind:
                return start, behind.end()
        inside = text[start:end].rstrip()
        closed = any(inside.endswith(ending.strip()) for ending in self.endings)
        return start, start + len(inside) if closed else end


def _answers(turns: Sequence[Mapping[str, Any]]) -> list[int]:
    return [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]


def _later_texts(messages: Sequence[Message], marked: Marked) -> tuple[int, ...]:
    """Where in the text those of the last turn of several texts begin, but the first; none where it is not whole."""
    number = max((place for place, turn in enumerate(messages) if turn.later_texts), default=None)
    if number is None or len(marked.starts.get(number, ())) != 1:
        return ()
    content, (start,) = messages[number].content, marked.starts[number]
    if not marked.text.startswith(content.strip(), start):
        return ()
    return tuple(start + place - len(content) + len(content.lstrip()) for place in messages[number].later_texts)


def _foreign_tokens(tokenizer: Any, written: str) -> list[str]:
    """A note when the template writes `<|...|>` marks that the tokenizer has no token for."""
    strange = sorted({mark for mark in TOKEN_LIKE.findall(written) if len(tokenizer.tokenize(mark)) > 1})
    shown = ", ".join(strange)
    return [f"The chat template writes {shown}, no tokens of this tokenizer: is it another's?"] if strange else []


def _endings(control: re.Pattern[str], tail: str) -> list[str]:
    """What closes a turn, by the text behind an answer: its first control token and those that adjoin it."""
    found: list[str] = []
    reached = 0
    for token in control.finditer(tail):
        if found and token.start() != reached:
            break
        reached = token.end()
        found.insert(0, tail[:reached])
    return found


def _refuse_lost_thoughts(turns: Sequence[Mapping[str, Any]], text: str) -> None:
    """Templates rightly leave the thoughts of earlier turns out, but the last answer's are there to be learned."""
    last = max((number for number, turn in enumerate(turns) if turn["role"] == "assistant"), default=None)
    if last is None:
        return
    content = turns[last]["content"]
    inside = content.split("</think>")[0].split("<think>")[-1] if "</think>" in content else ""
    thoughts = [inside, *[turns[last].get(key) for key in REASONING]]
    if any(isinstance(thought, str) and thought.strip() not in text for thought in thoughts):
        raise dropped("reasoning", last, "Training would lose it without a word.")


def _unstable(what: str) -> DataError:
    return DataError(
        f"the chat template hides which tokens are the assistant's: {what}.",
        code="E-TEMPLATE-UNSTABLE",
        why="A wrong mask trains the model on the user's words.",
        fix="Use a template with {% generation %} markers, or `template: plain`.",
    )
