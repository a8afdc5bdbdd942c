"""Instructions from conversations: as they are, one row for each reply, or asked as a task by templates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.core.spec import Spec
from keeptune.data.formats import FileFormat, Format
from keeptune.data.normalise import words
from keeptune.data.read import empty_counts, stream
from keeptune.data.source_file import locate
from keeptune.data.split import TRAIN
from keeptune.data.templates import Template, kind

TEST = "test"
WHOLE, ASKED = "conversation", "dialogue"
"""The kinds of the rows: turns as they are, and a conversation inside one request."""
SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


class Conversations(Spec):
    """One file of conversations, and what is made of each."""

    rows: Format = Field(description="{format: messages, path: dialogues.jsonl}, or any other format with turns")
    make: Literal["whole", "replies", "asked"] = Field(
        "whole",
        description="whole: the conversation, every answer learned; replies: a row for each answer, with what was said "
        "before; asked: the turns inside one request, and the last answer, by templates",
    )
    answers: int = Field(1, ge=1, description="fewest answers of the assistant")
    alike: int = Field(1, ge=1, description="conversations that are kept of those that open with the same request")
    test: float = Field(0.0, ge=0, le=0.5, description="share, by a hash of the opening, that is `split: test`")
    most: int | None = Field(None, ge=1, description="conversations that are used, drawn by a hash; unset: the cap")

    @field_validator("rows")
    @classmethod
    def _from_a_file(cls, rows: Format) -> Format:
        if not isinstance(rows, FileFormat):
            raise ValueError(f"'{rows.name}' has no file of conversations.")
        return rows

    @property
    def kind(self) -> str:
        """Of its rows."""
        return ASKED if self.make == "asked" else WHOLE


def build_conversations(
    name: str, plan: Conversations, folder: Path, counts: Counter[str], *, ways: tuple[int, int], seed: int, cap: int
) -> Iterator[dict[str, Any]]:
    """The rows of one file, in its order.

    What is used, the part, and the template are hashes of the seed and of what a conversation is: they do not change
    when others come or go. Rows of conversations that open alike are in one part.

    Args:
        name: of the source; begins the rows' ids.
        plan: what is made.
        folder: against which the path is read.
        counts: `read`, `bad`, `few answers`, `opens alike`, `over the cap`, `built`, and one for each template.
        ways: templates, and how many of them are inverted.
        seed: of the draws.
        cap: most conversations.

    Yields:
        `{"id", "messages", "task", "kind", "template", "inverted", "split"}`.

    Raises:
        DataError: the file cannot be read.
    """
    kept = list(_kept(plan, folder, counts))
    most = min(plan.most or cap, cap)
    used = set(sorted(range(len(kept)), key=lambda at: _draw(seed, name, str(kept[at].id), "row"))[:most])
    counts["over the cap"] += len(kept) - len(used)
    chosen = kind(ASKED).chosen(*ways)
    for at, one in enumerate(kept):
        if at not in used:
            continue
        share = _draw(seed, name, _opening(one), "part") / 2**64
        part = one.part or (TEST if share < plan.test else TRAIN)
        for row in _made(plan, one, chosen[_draw(seed, name, str(one.id), "template") % len(chosen)]):
            counts["built"] += 1
            if row["template"]:
                counts[f"template {row['template']}"] += 1
            yield {**row, "id": f"{name}-{row['id']}", "task": name, "kind": plan.kind, "split": part}


def _kept(plan: Conversations, folder: Path, counts: Counter[str]) -> Iterator[Example]:
    """The conversations that pass, each of its own opening as often as is allowed."""
    assert isinstance(plan.rows, FileFormat), "validated"
    openings: Counter[str] = Counter()
    for outcome in stream(plan.rows, locate(plan.rows.path, folder), empty_counts()):
        counts["read"] += 1
        if isinstance(outcome, DataError):
            counts["bad"] += 1
            counts[f"bad {outcome.code}"] += 1
        elif len(_answers(outcome.messages)) < plan.answers:
            counts["few answers"] += 1
        elif openings[_opening(outcome)] == plan.alike:
            counts["opens alike"] += 1
        else:
            openings[_opening(outcome)] += 1
            yield outcome


def _made(plan: Conversations, one: Example, template: Template) -> Iterator[dict[str, Any]]:
    ends = _answers(one.messages)
    plain = {"template": None, "inverted": False}
    if plan.make == "whole":
        yield {"id": one.id, "messages": [turn.to_dict() for turn in one.messages], **plain}
    elif plan.make == "replies":
        for number, end in enumerate(ends, start=1):
            turns = one.messages[: end + 1]
            before = [{**turn.to_dict(), "weight": 0} if turn.role == "assistant" else turn.to_dict() for turn in turns]
            yield {"id": f"{one.id}-{number}", "messages": [*before[:-1], turns[-1].to_dict()], **plain}
    else:
        fields = {"dialogue": transcript(one.messages[: ends[-1]]), "reply": one.messages[ends[-1]].content}
        asked, answer = template.fill(fields)
        turns = (Message("user", asked), Message("assistant", answer))
        shown = {"template": template.number, "inverted": template.inverted}
        yield {"id": one.id, "messages": [turn.to_dict() for turn in turns], **shown}


def transcript(turns: Sequence[Message]) -> str:
    """The turns as lines, each with its speaker before it."""
    return "\n".join(f"{SPEAKERS[turn.role]}: {turn.content}" for turn in turns)


def _answers(turns: Sequence[Message]) -> list[int]:
    """The places of what the assistant says; calls of tools without words are not told."""
    return [place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.content.strip()]


def _opening(one: Example) -> str:
    return " ".join(words(next((turn.content for turn in one.messages if turn.role == "user"), "")))


def _draw(seed: int, source: str, key: str, what: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}|{source}|{key}|{what}".encode()).digest()[:8], "big")
