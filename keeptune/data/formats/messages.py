"""Conversations: OpenAI's `messages`, ShareGPT's `conversations`, `turns` of dialogue corpora; tools and thinking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from keeptune.core.errors import did_you_mean
from keeptune.core.example import ROLES, Example, Message
from keeptune.data.fields import as_text, empty, optional_text
from keeptune.data.formats import FileFormat, identity, licence
from keeptune.data.place import Place
from keeptune.data.turn_order import check_order

MOST_TURNS = 10_000
COLUMNS = ("messages", "conversations", "conversation", "turns", "dialogue", "dialog")
SHAPES = (("role", "content"), ("from", "value"), ("speaker", "utterance"), ("speaker", "text"), ("role", "text"))
ROLE_NAMES = {
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "customer": "user",
    "agent": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}


class Messages(FileFormat):
    """A list of turns, `{"role", "content"}`, `{"from", "value"}` or `{"speaker", "utterance"}`.

    Whatever else a turn holds (`tool_calls`, `tool_call_id`, `name`, `reasoning_content`, `thinking`) is kept in
    `Message.extra` for the chat template; `weight: 0` on an assistant turn means that it is read and not learned.
    A row's `tools` go to the first turn's `extra`, from which encoding hands them to the template.
    """

    messages: str | None = Field(None, description="column of the turns; found by itself when it has a usual name")
    system: str = Field("system", description="column of an optional system text beside the turns")
    tools: str = Field("tools", description="column of optional tool definitions")

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """All turns, in order."""
        column = self.messages or next((name for name in COLUMNS if name in row), "messages")
        if column not in row:
            raise place.missing(row, column, "messages")
        given = row[column]
        if not isinstance(given, list) or not given:
            kind = "is empty" if given == [] else f"holds {type(given).__name__}, not a list of turns"
            raise place.error(f"'{column}' {kind}.", code="E-DATA-TYPE", key=column)
        if len(given) > MOST_TURNS:
            text = f"'{column}' holds {len(given)} turns; at most {MOST_TURNS} are read."
            raise place.error(text, code="E-DATA-ROWSIZE", key=column, fix="Split the conversation into rows.")
        turns = [read_turn(turn, f"{column}[{number}]", place) for number, turn in enumerate(given)]
        system = optional_text(row, self.system, place)
        if system and turns[0].role != "system":
            turns.insert(0, Message("system", system))
        check_order(turns, column, place)
        tools = row.get(self.tools)
        if isinstance(tools, list) and tools:
            turns[0] = Message(turns[0].role, turns[0].content, {**turns[0].extra, "tools": tools})
        return Example(identity(row, place), tuple(turns), licence=licence(row), line=place.line)

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """Sure when a usual column holds turns with a speaker and a text."""
        turns: list[Any] = next((row[name] for name in COLUMNS if isinstance(row.get(name), list)), [])
        fits = bool(turns) and all(
            isinstance(turn, dict) and any(set(s) <= set(turn) for s in SHAPES) for turn in turns
        )
        return 1.0 if fits else 0.0


def read_turn(turn: Any, key: str, place: Place) -> Message:
    """One turn of either shape.

    Raises:
        DataError: unknown role (E-DATA-ROLES), missing or unusable content, an answer without content.
    """
    if not isinstance(turn, dict):
        raise place.error(f"'{key}' is {type(turn).__name__}, not a turn with a role.", code="E-DATA-TYPE", key=key)
    speaker, said = _shape(turn)
    for name in (speaker,) if turn.get("tool_calls") else (speaker, said):
        if name not in turn:
            raise place.missing(turn, name)
    named = as_text(turn[speaker], f"{key}.{speaker}", place)
    role = ROLE_NAMES.get(named.strip().lower())
    if speaker == "speaker" and role == "system":
        role = "assistant"  # dialogue corpora call the machine that speaks the system
    if role is None:
        raise place.error(
            f"nobody is called '{named}' in a conversation.",
            code="E-DATA-ROLES",
            key=f"{key}.{speaker}",
            fix=did_you_mean(named, ("system", "user", "assistant", "tool", "human", "gpt")),
        )
    content = _content(turn.get(said), f"{key}.{said}", place, optional=bool(turn.get("tool_calls")))
    extra = {name: value for name, value in turn.items() if name not in (speaker, said) and value is not None}
    if extra.get("weight", 1) not in (0, 1):
        raise place.error(f"weight {extra['weight']!r} is neither 0 nor 1.", code="E-DATA-TYPE", key=f"{key}.weight")
    if role in ("user", "assistant") and not content.strip() and not extra.get("tool_calls"):
        raise empty(content, f"{key}.{said}", place, "answer" if role == "assistant" else "prompt")
    return Message(role, content, extra)


def _shape(turn: Mapping[str, Any]) -> tuple[str, str]:
    """The names that the turn holds; else those of its speaker, to complain with, or for tool calls without a text."""
    for shape in SHAPES:
        if shape[0] in turn and shape[1] in turn:
            return shape
    return next((shape for shape in SHAPES if shape[0] in turn), SHAPES[0])


def _content(value: Any, key: str, place: Place, *, optional: bool) -> str:
    if value is None and optional:
        return ""
    if not isinstance(value, list):
        return as_text(value, key, place)
    texts = []
    for number, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            text = f"part {number} is {kind!r}; only text parts can be learned."
            raise place.error(text, code="E-DATA-TYPE", key=key, fix="Leave rows with images or sound out.")
        texts.append(as_text(part.get("text"), f"{key}[{number}].text", place))
    return "".join(texts)
