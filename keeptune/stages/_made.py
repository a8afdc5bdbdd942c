"""Rows that a stage makes for the stages after it: a source like any other, in a file of the stage's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from keeptune.core.example import Example, Message
from keeptune.core.files import atomic_write, make_folder

FOLDER = "made"


def write_made(folder: Path, name: str, rows: Sequence[Example]) -> None:
    """Writes the rows of a made source, whole or not at all."""
    make_folder(folder / FOLDER)
    lines = [{"id": row.id, "messages": [turn.to_dict() for turn in row.messages]} for row in rows]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    atomic_write(folder / FOLDER / f"{name}.jsonl", text)


def read_made(folder: Path, name: str) -> tuple[Example, ...]:
    """The rows that `write_made` wrote."""
    lines = (folder / FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(_example(json.loads(line), name, number) for number, line in enumerate(lines, start=1))


def _example(plain: dict[str, object], name: str, line: int) -> Example:
    turns: list[dict[str, str]] = plain["messages"]  # type: ignore[assignment]
    messages = tuple(
        Message(turn["role"], turn["content"], {k: v for k, v in turn.items() if k not in ("role", "content")})
        for turn in turns
    )
    return Example(str(plain["id"]), messages, source=name, line=line)
