"""Writes the tables of `docs/curation.md`: what LIMA's rules keep of Stack Exchange dumps, absolute and relative.

Run as `python scripts/curation_page.py DUMP...`, each a `Posts.xml` or `Posts.xml.gz`; the text around stays.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from keeptune.core.errors import DataError
from keeptune.recipes.curation import bounds, curate_files

PAGE = Path(__file__).resolve().parent.parent / "docs" / "curation.md"
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def tables(dumps: list[Path]) -> str:
    """A table for each dump and each kind of bounds."""
    made = []
    for dump in dumps:
        for thresholds in ("lima", "relative"):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = curate_files([dump], Path(folder) / "kept.jsonl", thresholds=thresholds)  # type: ignore[arg-type]
                except DataError as error:
                    made.append(f"**{dump.name}**, `--thresholds {thresholds}`: nothing is kept ({error.why}).\n")
                    continue
            made.append(table(dump.name, thresholds, found["groups"][0]))
    return "\n".join(made)


def table(name: str, thresholds: str, group: dict[str, Any]) -> str:
    """What each rule did, with the numbers of three posts that it removed."""
    lines = [
        f"**{name}**, `--thresholds {thresholds}`: {group['candidates']:,} questions with an answer, "
        f"{group['kept']:,} kept.\n",
        "| rule | bounds | alone it would remove | removed | left | for example |",
        "|---|---|---:|---:|---:|---|",
    ]
    for rule in group["rules"]:
        shown = "; ".join(f"post {one['id']}: {one['reason']}" for one in rule["examples"])
        counts = " | ".join(f"{rule[key]:,}" for key in ("alone", "removed", "left"))
        lines.append(f"| `{rule['name']}` | {bounds(rule)} | {counts} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Replaces what stands between the marks of the page."""
    dumps = [Path(argument) for argument in sys.argv[1:]]
    if not dumps:
        sys.exit(__doc__)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}{tables(dumps)}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
