"""One file per row format; `read_row(row, place) -> Example`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from keeptune.core.example import Example
from keeptune.core.spec import Spec
from keeptune.data.json_rows import Row
from keeptune.data.place import Place


class Format(Spec, shelf="keeptune.data.formats"):
    """Where examples come from and how a row becomes one. Recipes name the member with `format:`."""

    named_by: ClassVar[str] = "format"
    from_file: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the recipe's form: `format` names the member."""
        plain = super().to_dict()
        return {"format": plain.pop("name"), **plain}

    @model_validator(mode="wrap")
    @classmethod
    def _named_by_format(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        """`format: alpaca` is read as `name: alpaca`."""
        if isinstance(data, Mapping) and "format" in data:
            named = dict(data)
            data = {"name": named.pop("format"), **named}
        return handler(data)

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """How sure it is that `row` is of this format, 0 to 1; `keeptune init` asks every member."""
        return 0.0

    @classmethod
    def settings_for(cls, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The settings, such as column names, with which this format reads `rows`."""
        return {}


class FileFormat(Format):
    """A format whose rows stand in a file."""

    path: str = Field(
        description="data file (jsonl, json, csv, tsv, parquet, txt, xml, conllu; also .gz), relative to the recipe",
        min_length=1,
    )
    skip_bad: int = Field(0, ge=0, description="bad rows that may be left out, each counted and named")
    subset: float = Field(
        1, gt=0, le=1, description="share of the training rows that is used; smaller ones are inside larger"
    )
    shifted: dict[str, list[str]] = Field(
        default_factory=dict,
        description="topic shift: values by column whose rows are never trained on and measured as out of distribution",
    )
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-fA-F]{12,64}$",
        description="digest of the file, whole or its first digits; another file is refused",
    )
    row_bytes: int = Field(16 << 20, gt=0, description="largest row in bytes")

    def arrange(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Rows of the file to rows of this format, where these differ: a tree is unfolded, posts are joined."""
        return rows

    def is_shifted(self, row: Mapping[str, Any], place: Place) -> bool:
        """Whether a row is out of distribution by `shifted`.

        Raises:
            DataError: the row has no such column (E-DATA-KEY).
        """
        for column in self.shifted:
            if column not in row:
                raise place.missing(row, column, "shifted")
        return any(str(row[column]) in values for column, values in self.shifted.items())

    @abstractmethod
    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """One row as an Example.

        Raises:
            DataError: the row cannot be learned from; says which field, why, and what to do.
        """


def identity(row: Mapping[str, Any], place: Place) -> str:
    """The row's own `id` when it is text or a number, else its line."""
    own = row.get("id")
    usable = isinstance(own, (str, int)) and not isinstance(own, bool) and str(own).strip()
    return str(own) if usable else str(place.line)


def licence(row: Mapping[str, Any]) -> str:
    """What the row states as its licence, or nothing."""
    stated = row.get("licence", row.get("license"))
    return stated if isinstance(stated, str) else ""


def guessable(value: Any) -> bool:
    """Whether a guess may take `value` for a text column."""
    return isinstance(value, str) and bool(value.strip())
