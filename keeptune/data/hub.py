"""Data sets of the hub: `hub:OWNER/NAME[@REVISION][#[CONFIG/]SPLIT]`, fetched once by `datasets`, then a file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from keeptune.core.cache import cache_folder
from keeptune.core.errors import DataError

PREFIX = "hub:"
NAME = re.compile(r"hub:(?P<id>[^@#]+)(?:@(?P<revision>[\w.-]+))?(?:#(?:(?P<config>[\w.-]+)/)?(?P<split>[\w.-]+))?")


def hub_file(path: str) -> Path:
    """The Parquet file that holds a data set of the hub; it is fetched when it is not there yet.

    The file is kept under the user's cache, so that a second run reads the same rows without the network. Labels that
    the data set names stand there by their names. A data set with loading code is not taken: `datasets` 4 and later
    have none.

    Raises:
        DataError: the name has another form (E-DATA-HUB), or the hub does not give it, such as without a network.
    """
    named = NAME.fullmatch(path)
    if named is None:
        raise DataError(
            f"'{path}' is no name of a data set.", code="E-DATA-HUB",
            fix="Write hub:OWNER/NAME, with @REVISION and #SPLIT or #CONFIG/SPLIT behind it where needed.",
        )  # fmt: skip
    target = cache_folder() / "hub" / f"{hashlib.sha256(path.encode()).hexdigest()[:16]}.parquet"
    if not target.is_file():
        _fetch(named, path, target)
    return target


def _fetch(named: re.Match[str], path: str, target: Path) -> None:
    import datasets

    try:
        rows = datasets.load_dataset(
            named["id"], named["config"], revision=named["revision"], split=named["split"] or "train"
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the hub does not give it: {str(error).splitlines()[0][:160]}",
            code="E-DATA-HUB",
            where={"file": path},
            fix="Look at the name, the revision and the split, and at the network; or name a file of your own.",
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    _named_labels(rows).to_parquet(part)
    part.replace(target)


def _named_labels(rows: Any) -> Any:
    """Labels by their names, where the data set states them; it holds numbers."""
    import datasets

    for column, feature in list(rows.features.items()):
        if isinstance(feature, datasets.ClassLabel):
            names = [feature.names[number] if number in range(len(feature.names)) else None for number in rows[column]]
            rows = rows.remove_columns(column).add_column(column, names)
    return rows
