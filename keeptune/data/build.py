"""Instructions from task sets (FLAN, arXiv:2109.01652): every row is asked by one template of its kind."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from typing_extensions import Self

from keeptune.core.errors import DataError, RecipeError, did_you_mean
from keeptune.core.example import Message
from keeptune.core.spec import Spec
from keeptune.data.build_conversations import Conversations, build_conversations
from keeptune.data.fields import required_text
from keeptune.data.json_rows import Row
from keeptune.data.read import empty_counts
from keeptune.data.rows import read_rows
from keeptune.data.source_file import locate
from keeptune.data.split import TRAIN, stated_part
from keeptune.data.templates import MOST_OPTIONS, Kind, kind

ROW_BYTES = 16 << 20
HELD_OUT = "test"


class TaskSet(Spec):
    """One task: a file of rows, and which columns hold the fields of its kind."""

    kind: str = Field(description="of the bank of templates: classification, inference, reading, ...")
    path: str = Field(min_length=1, description="data file, relative to the plan")
    columns: dict[str, str] = Field(default_factory=dict, description="column of each field; unset: of the same name")
    labels: dict[str, str] = Field(default_factory=dict, description="how a label is written: {'0': 'no', '1': 'yes'}")
    most: int | None = Field(None, ge=1, description="rows that are used, drawn by a hash; unset: the plan's cap")


class BuildPlan(Spec):
    """What is built."""

    tasks: dict[str, TaskSet] = Field(default_factory=dict, description="by name")
    conversations: dict[str, Conversations] = Field(default_factory=dict, description="by name")
    hold_out: list[str] = Field(default_factory=list, description="kinds whose rows are all `split: test`")
    templates: int = Field(10, ge=1, le=10, description="ways to ask, of each kind")
    inverted: int = Field(3, ge=0, le=3, description="of these, how many give the answer and want the question")
    most: int = Field(30_000, ge=1, description="rows of one task, as FLAN caps them")
    seed: int = Field(0, ge=0, lt=2**31, description="of all draws")

    @model_validator(mode="after")
    def _kinds_exist(self) -> Self:
        used = {task.kind for task in self.tasks.values()} | {one.kind for one in self.conversations.values()}
        twice = next((name for name in self.tasks if name in self.conversations), None)
        if twice is not None:
            raise ValueError(f"'{twice}' is the name of a task and of conversations.")
        if not used:
            raise ValueError("nothing is built: there are neither tasks nor conversations.")
        unknown = [name for name in self.hold_out if name not in used]
        if unknown:
            raise ValueError(f"no task is of the kind '{unknown[0]}' that is held out.")
        if used <= set(self.hold_out):
            raise ValueError("every kind is held out: nothing is left to train on.")
        for task in self.tasks.values():
            kind(task.kind)
        return self


def build_source(name: str, plan: BuildPlan, folder: Path, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The rows of a task or of conversations, whichever has that name; a kind that is held out is `split: test`.

    Raises:
        DataError: the file cannot be read.
    """
    if name in plan.tasks:
        yield from build_task(name, plan, folder, counts)
        return
    source = plan.conversations[name]
    ways = (plan.templates, plan.inverted)
    for row in build_conversations(name, source, folder, counts, ways=ways, seed=plan.seed, cap=plan.most):
        yield {**row, "split": HELD_OUT} if source.kind in plan.hold_out else row


def build_task(name: str, plan: BuildPlan, folder: Path, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The rows of one task as conversations, in the file's order.

    Which template asks a row, and which rows are used when there are more than the cap, is a hash of seed, task and
    line: neither changes when other tasks come or go.

    Args:
        name: of the task.
        plan: of the build.
        folder: of the plan's file.
        counts: `read`, `bad`, `over the cap`, `built`, and one count for each template.

    Yields:
        `{"id", "messages", "task", "kind", "template", "inverted", "split"}`.

    Raises:
        RecipeError: a column is named for a field that the kind does not have (E-CONFIG-KEY).
        DataError: the file cannot be read.
    """
    task = plan.tasks[name]
    of = kind(task.kind)
    unknown = next((column for column in task.columns if column not in of.fields), None)
    if unknown is not None:
        raise RecipeError(
            f"'{unknown}' is no field of {task.kind}.", code="E-CONFIG-KEY", where={"key": f"tasks.{name}.columns"},
            fix=did_you_mean(unknown, of.fields),
        )  # fmt: skip
    chosen = of.chosen(plan.templates, plan.inverted)
    rows = list(_fields(task, of, folder, counts))
    options = _options(of, [fields for _, fields, _ in rows])
    most = min(task.most or plan.most, plan.most)
    used = set(sorted(range(len(rows)), key=lambda at: _draw(plan.seed, name, rows[at][0], "row"))[:most])
    counts["over the cap"] += len(rows) - len(used)
    for at, (line, fields, part) in enumerate(rows):
        if at not in used:
            continue
        template = chosen[_draw(plan.seed, name, line, "template") % len(chosen)]
        asked, answer = template.fill(fields, options)
        counts["built"] += 1
        counts[f"template {template.number}"] += 1
        turns = [Message("user", asked).to_dict(), Message("assistant", answer).to_dict()]
        split = HELD_OUT if task.kind in plan.hold_out else part or TRAIN
        yield {
            "id": f"{name}-{line}", "messages": turns, "task": name, "kind": task.kind,
            "template": template.number, "inverted": template.inverted, "split": split,
        }  # fmt: skip


def _fields(task: TaskSet, of: Kind, folder: Path, counts: Counter[str]) -> Iterator[tuple[int, dict[str, str], str]]:
    """(line, the fields of the kind, the part that the row states) of every usable row."""
    for row in read_rows(locate(task.path, folder), ROW_BYTES, empty_counts()):
        counts["read"] += 1
        try:
            yield row.place.line or counts["read"], _read(row, task, of), stated_part(_value(row, "split"))
        except DataError as error:
            counts["bad"] += 1
            counts[f"bad {error.code}"] += 1


def _read(row: Row, task: TaskSet, of: Kind) -> dict[str, str]:
    if isinstance(row.values, DataError):
        raise row.values
    found = {}
    for name in of.fields:
        text = required_text(row.values, task.columns.get(name, name), row.place, setting=name, part="prompt")
        found[name] = text.strip()
    found[of.label] = task.labels.get(found[of.label], found[of.label])
    return found


def _value(row: Row, key: str) -> Any:
    return None if isinstance(row.values, DataError) else row.values.get(key)


def _options(of: Kind, rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The label set, where the kind shows one and it is no longer than 30."""
    labels = sorted({fields[of.label] for fields in rows}) if of.options else []
    return tuple(labels) if len(labels) <= MOST_OPTIONS else ()


def _draw(seed: int, task: str, line: int, what: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}|{task}|{line}|{what}".encode()).digest()[:8], "big")
