"""Writes the tables of `docs/probing.md` from results of `keeptune probe`.

Run as `python scripts/probing_page.py NAME=RUN...`, where NAME is what the model is called and RUN the output folder of
a probing run of one model; the text around the tables stays.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from keeptune.core.files import read_json
from keeptune.report.words import number, points

PAGE = Path(__file__).resolve().parent.parent / "docs" / "probing.md"
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def tables(name: str, result: Mapping[str, Any]) -> str:
    """One table for each probe."""
    texts, units, seeds = result["texts"], result["units"], len(result["rows"][0]["seeds"])
    parts = [
        f"**{name}, `{result['task']}`**: {units['test']:,} answers in {texts['test']:,} test texts, learned from "
        f"{units['train']:,} in {texts['train']:,}; {seeds} seed{'s' * (seeds > 1)}; "
        f"{100 * result['baseline']:.1f}% right without any state.\n"
    ]
    for title, rows in groupby(result["rows"], key=lambda row: row["title"]):
        parts += [
            f"| {title}: layer | accuracy, % | control, % | selectivity, points | codelength, kbit | compression |",
            "|---:|---:|---:|---:|---:|---:|",
            *map(_row, rows),
            "",
        ]
    return "\n".join(parts)


def _row(row: Mapping[str, Any]) -> str:
    own, chosen = row["accuracy"], row["selectivity"]
    accuracy = [points(own[end], sign=False) for end in ("value", "low", "high")]
    selectivity = [points(chosen[end]) for end in ("value", "low", "high")]
    cells = [
        str(row["layer"]),
        "{} ({}, {})".format(*accuracy),
        points(row["control"]["value"], sign=False),
        "{} ({}, {})".format(*selectivity),
        number(None if row["bits"] is None else row["bits"] / 1000, 1),
        number(row["compression"], 2),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Replaces what stands between the marks of the page."""
    named = [argument.partition("=") for argument in sys.argv[1:]]
    if not named:
        sys.exit(__doc__)
    made = [tables(name, read_json(Path(folder) / "probe.json")) for name, _, folder in named]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}{chr(10).join(made)}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
