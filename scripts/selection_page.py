"""Writes the tables of `docs/selection.md` from the folders of finished selection studies.

Run as `python scripts/selection_page.py STUDY...`, each a folder of `keeptune study selection`; the text around stays.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from keeptune.report.selection_table import selection_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "selection.md"
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def main() -> None:
    """Replaces what stands between the marks of the page."""
    folders = [Path(argument) for argument in sys.argv[1:]]
    if not folders:
        sys.exit(__doc__)
    tables = [selection_text(json.loads((folder / "study.json").read_text(encoding="utf-8"))) for folder in folders]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + "\n\n---\n\n".join(tables) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
