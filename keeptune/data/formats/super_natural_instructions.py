"""Task files with a definition and many instances: Super-NaturalInstructions, and Self-Instruct's seed tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.fields import optional_text, required_text
from keeptune.data.formats import FileFormat, identity, licence
from keeptune.data.json_rows import Row
from keeptune.data.place import Place

INSTANCES, DEFINITIONS = ("Instances", "instances"), ("Definition", "definition", "instruction")


class SuperNaturalInstructions(FileFormat):
    """`{"Definition", "Instances": [{"id", "input", "output"}, ...]}`, one task a file or a row.

    Every instance becomes one conversation: the definition, a blank line and the input, then the output, of which the
    first is taken where several are right. `demonstrations: K` puts the first K positive examples between them.
    """

    demonstrations: int = Field(0, ge=0, le=10, description="positive examples of the task shown before each input")

    def arrange(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One row an instance."""
        for row in rows:
            values = row.values
            listed = None if isinstance(values, DataError) else _first(values, INSTANCES)
            if isinstance(values, DataError) or not isinstance(listed, list):
                yield row
                continue
            for number, instance in enumerate(listed, start=1):
                own = instance if isinstance(instance, dict) else {"input": instance}
                name = own.get("id") or f"{values.get('id', row.place.line)}-{number}"
                yield Row(row.place, {**values, **own, "id": name})

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """One instance with its task's definition."""
        key = next((name for name in DEFINITIONS if name in row), DEFINITIONS[0])
        plain = {**row, key: _one(row.get(key)), "output": _one(row.get("output"))}
        asked = [required_text(plain, key, place, part="prompt"), *self._shown(row)]
        given = optional_text(plain, "input", place)
        answer = required_text(plain, "output", place, part="answer")
        prompt = "\n\n".join([*asked, *([f"Input: {given}\nOutput:" if len(asked) > 1 else given] if given else [])])
        turns = (Message("user", prompt), Message("assistant", answer))
        return Example(identity(row, place), turns, licence=licence(row) or _licence(row), line=place.line)

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """Sure when a definition stands beside a list of instances."""
        both = isinstance(_first(row, INSTANCES), list) and _one(_first(row, DEFINITIONS))
        return 1.0 if both else 0.0

    def _shown(self, row: Mapping[str, Any]) -> list[str]:
        examples = row.get("Positive Examples")
        usable = [one for one in examples if isinstance(one, dict)] if isinstance(examples, list) else []
        return [
            f"Input: {one.get('input')}\nOutput: {_one(one.get('output'))}" for one in usable[: self.demonstrations]
        ]


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if name in row), None)


def _one(value: Any) -> Any:
    """The first of several right answers or wordings."""
    return value[0] if isinstance(value, list) and value else value


def _licence(row: Mapping[str, Any]) -> str:
    stated = _one(row.get("Instance License"))
    return stated if isinstance(stated, str) else ""
