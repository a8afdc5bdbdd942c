"""Writes the tables of `docs/selection.md` from the folders of finished selection studies.

Run as `python scripts/selection_page.py STUDY...`, each a folder of `keeptune study selection`. A study takes the place
of the one of its recipe and model, or stands behind the others; the other studies and the text around stay.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from keeptune.report.selection_table import selection_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "selection.md"
RULE = "\n\n---\n\n"
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def main() -> None:
    """Replaces the tables of the given studies between the marks of the page."""
    folders = [Path(argument) for argument in sys.argv[1:]]
    if not folders:
        sys.exit(__doc__)
    tables = [selection_text(json.loads((folder / "study.json").read_text(encoding="utf-8"))) for folder in folders]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    standing, after = rest.split(END)
    found = {_head(table): table for table in (*standing.strip("\n").split(RULE), *tables) if table}
    PAGE.write_text(before + BEGIN + RULE.join(found.values()) + "\n" + END + after, encoding="utf-8")


def _head(table: str) -> str:
    """What a table is of: recipe and model."""
    return table.split(":", 1)[0]


if __name__ == "__main__":
    main()
