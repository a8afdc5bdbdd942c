"""A suite from files of the user's own: one YAML file that names data files.

    version: "1"
    tasks:
      - {name: grammar, file: grammar.jsonl, kind: choice}         # rows: prompt, options, gold (index or text)
      - {name: sums, file: sums.jsonl, kind: generation}           # rows: prompt, answer
      - {name: news, file: news.jsonl.gz, kind: corpus}            # rows: text
      - {name: piqa, file: piqa.yaml, kind: harness}               # a task of lm-evaluation-harness, or its name there
    instructions: requests.txt                                     # one unrelated request a line

A row may carry `id` and `cluster` (the document or dialogue it comes from).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import yaml
from pydantic import Field, model_validator

from keeptune.core.errors import DataError, RecipeError
from keeptune.core.spec import Spec, validate
from keeptune.data.harness_tasks import harness_task
from keeptune.data.place import Place
from keeptune.data.rows import read_rows
from keeptune.data.source_file import locate, refuse_irregular
from keeptune.data.suite import (
    Choice,
    ChoiceTask,
    Corpus,
    Document,
    GenerationMetric,
    GenerationTask,
    Normalisation,
    Question,
    Suite,
    stable_id,
)

KINDS = ("choice", "generation", "corpus", "harness")
MOST_BYTES = 1_000_000
MOST_ROW_BYTES = 16 << 20


class SuiteTask(Spec):
    """One task of a suite file."""

    name: str = Field(min_length=1, max_length=64, description="as the certificate shows it")
    file: str = Field(
        description="data file, beside the suite file or absolute; for kind harness a task's name or its YAML file"
    )
    kind: Literal["choice", "generation", "corpus", "harness"] = Field(description="how it is measured")
    chat: bool = Field(False, description="choice: the prompt is a user's turn, the option the whole answer")
    normalise: Normalisation = Field("none", description="choice: none, bytes, or prior")
    metric: str | None = Field(
        None,
        description=f"generation: {', '.join(get_args(GenerationMetric))}; harness: one of its own, else its first",
    )
    max_new_tokens: int = Field(64, gt=0, le=4096, description="generation: longest answer")
    most: int | None = Field(None, gt=0, description="read only so many rows")
    items: int | None = Field(None, gt=0, description="harness: how many it has; `plan` forecasts with it")

    @model_validator(mode="after")
    def _known_metric(self) -> SuiteTask:
        if self.kind == "generation" and self.metric not in (None, *get_args(GenerationMetric)):
            raise ValueError(f"'metric' is one of {', '.join(get_args(GenerationMetric))} for generation")
        return self


class SuiteFile(Spec):
    """A suite file, whole."""

    version: str = Field("1", description="changes when the questions do")
    tasks: list[SuiteTask] = Field(min_length=1, max_length=200, description="in order")
    instructions: str | None = Field(None, description="text file of unrelated requests, for the format leak")


def read_suite(path: Path) -> Suite:
    """Reads a suite file and the data that it names.

    Raises:
        RecipeError: the file is missing or is no suite (E-SUITE-FILE, E-CONFIG-*), or two tasks share a name.
        DataError: a data file or a row of it, with its place.
    """
    suite = validate(SuiteFile, _plain(path), file=str(path))
    names = [task.name for task in suite.tasks]
    for name in names:
        if names.count(name) > 1:
            raise _refused(path, f"two tasks are called '{name}'.", "Give each task its own name.")
    chosen = {kind: [task for task in suite.tasks if task.kind == kind] for kind in KINDS}
    rows = {
        task.name: list(_rows(locate(task.file, path.parent), task.most))
        for task in suite.tasks
        if task.kind != "harness"
    }
    asked: tuple[str, ...] = ()
    if suite.instructions:
        lines = _rows(locate(suite.instructions, path.parent), None, per_line=True)
        asked = tuple(dict.fromkeys(_text(row, "text") for row in lines))
    return Suite(
        name=path.stem,
        version=suite.version,
        tasks=tuple(_choice_task(task, rows[task.name]) for task in chosen["choice"]),
        corpora=tuple(_corpus(task, rows[task.name]) for task in chosen["corpus"]),
        generations=tuple(_generation_task(task, rows[task.name]) for task in chosen["generation"]),
        harness=tuple(
            replace(harness_task(task.name, task.file, path.parent, task.metric or "", task.most), items=task.items)
            for task in chosen["harness"]
        ),
        instructions=asked,
    )


def _plain(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > MOST_BYTES:
            raise _refused(path, "the suite file is larger than a megabyte.", "Put the data into files of their own.")
        plain = yaml.safe_load(text)
    except OSError:
        raise _refused(path, "there is no such suite file.", "Give `embedded`, or the path of a YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _refused(path, f"this is not YAML: {str(error).splitlines()[0]}", "See docs/evaluation.md.") from None
    if not isinstance(plain, dict):
        raise _refused(path, "a suite is a mapping with `tasks`.", "See docs/evaluation.md.")
    return plain


def _refused(path: Path, what: str, fix: str) -> RecipeError:
    return RecipeError(what, code="E-SUITE-FILE", where={"file": str(path)}, fix=fix)


class Row(NamedTuple):
    """A record and where it stands."""

    place: Place
    values: Mapping[str, Any]


def _rows(path: Path, most: int | None, *, per_line: bool = False) -> Iterator[Row]:
    refuse_irregular(path)
    count = 0
    for row in read_rows(path, MOST_ROW_BYTES, Counter(), per_line=per_line):
        if isinstance(row.values, DataError):
            raise row.values
        if count == most:
            return
        count += 1
        yield Row(row.place, row.values)
    if not count:
        raise DataError("no rows.", code="E-DATA-NOROWS", where={"file": str(path)})


def _choice_task(task: SuiteTask, rows: list[Row]) -> ChoiceTask:
    items = tuple(_choice(row, chat=task.chat) for row in rows)
    chance = sum(1 / len(item.options) for item in items) / len(items)
    return ChoiceTask(task.name, _distinct(items), chance, chat=task.chat, normalise=task.normalise)


def _choice(row: Row, *, chat: bool) -> Choice:
    options, gold = _value(row, "options"), _value(row, "gold")
    # Without chat, an option may be a whole text: minimal pairs have no prompt.
    prompt = "" if row.values.get("prompt") == "" and not chat else _text(row, "prompt")
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(o, str) and o for o in options):
        raise row.place.error("'options' is a list of at least two texts.", code="E-DATA-TYPE", key="options")
    if isinstance(gold, str) and gold in options:
        gold = options.index(gold)
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(options):
        raise row.place.error("'gold' is the index of the right option, or its text.", code="E-DATA-TYPE", key="gold")
    return Choice(_id(row, prompt, *options), prompt, tuple(options), gold, _cluster(row))


def _generation_task(task: SuiteTask, rows: list[Row]) -> GenerationTask:
    items = tuple(
        Question(_id(row, _text(row, "prompt")), _text(row, "prompt"), _text(row, "answer"), _cluster(row))
        for row in rows
    )
    metric = cast(GenerationMetric, task.metric or "exact_match")
    return GenerationTask(task.name, _distinct(items), metric, task.max_new_tokens)


def _corpus(task: SuiteTask, rows: list[Row]) -> Corpus:
    documents = tuple(Document(_id(row, _text(row, "text")), _text(row, "text"), _cluster(row)) for row in rows)
    return Corpus(task.name, _distinct(documents))


def _distinct(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """One item per id: the same question twice would count twice."""
    return tuple({item.id: item for item in items}.values())


def _id(row: Row, *content: str) -> str:
    given = row.values.get("id")
    return stable_id(*content) if given is None else str(given)


def _cluster(row: Row) -> str:
    return str(row.values.get("cluster") or "")


def _value(row: Row, key: str) -> Any:
    if key not in row.values:
        raise row.place.missing(row.values, key)
    return row.values[key]


def _text(row: Row, key: str) -> str:
    value = _value(row, key)
    if not isinstance(value, str) or not value.strip():
        raise row.place.error(f"'{key}' is a text that is not blank.", code="E-DATA-TYPE", key=key)
    return value
