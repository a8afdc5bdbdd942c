"""Where a row stands: the file and line that every complaint about it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keeptune.core.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Place:
    """A row of a data file.

    Attributes:
        file: as the user wrote it, or as it was found beside the recipe.
        line: 1-based line of the (decompressed) file; the row's number in a Parquet file.
    """

    file: str
    line: int | None = None

    def error(
        self, what: str, *, code: str, key: str | None = None, column: int | None = None, why: str = "", fix: str = ""
    ) -> DataError:
        """A `DataError` at this place."""
        where = {"file": self.file, "line": self.line, "column": column, "key": key}
        return DataError(what, code=code, where=where, why=why, fix=fix)

    def missing(self, row: Mapping[str, Any], key: str, setting: str | None = None) -> DataError:
        """The row has no `key`: names the row's keys and the nearest one (E-DATA-KEY).

        Args:
            row: what the file holds at this place.
            key: the column that was looked for.
            setting: the format's setting that names the column, when the user can change it.
        """
        if not row:
            return self.error(f"the row is empty; '{key}' is needed.", code="E-DATA-KEY", key=key)
        near = did_you_mean(key, map(str, row)).replace("Known:", "The row has:")
        advice = f" Name the column with `{setting}: COLUMN`." if setting else ""
        return self.error(f"the row has no '{key}'.", code="E-DATA-KEY", key=key, fix=near + advice)
