"""Checks that every command the README and the docs print is one that exists, with options that exist.

Each line of a fenced `sh` block is read: `make` targets must stand in the Makefile, `keeptune` commands and their
long options must be known to the command line, `python -m` modules and linked files must be there.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\((?!https?:|#|mailto:)([^)#\s]+)")


def commands() -> dict[str, set[str]]:
    """Command name to its long options."""
    from typer.main import get_command

    from keeptune.cli import app

    group = get_command(app)
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


def faults_of(line: str, known: dict[str, set[str]], targets: set[str]) -> Iterator[str]:
    """What is wrong with one printed command."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] == "make":
        yield from (f"no make target '{word}'" for word in words[1:] if "=" not in word and word not in targets)
    elif words[0] == "keeptune" and len(words) > 1 and not words[1].startswith("-"):
        if words[1] not in known:
            yield f"no command 'keeptune {words[1]}'"
            return
        options = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
        yield from (
            f"'keeptune {words[1]}' has no option {option}" for option in options - known[words[1]] - {"--help"}
        )
    elif words[0] == "python" and words[1:2] == ["-m"] and find_spec(words[2]) is None:
        yield f"no module '{words[2]}'"


def main() -> int:
    """Prints the faults; 1 when there is one."""
    sys.path.insert(0, str(ROOT))
    known = commands()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    faults = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        shown = page.relative_to(ROOT)
        for block in FENCE.findall(text):
            for line in block.replace("\\\n", " ").splitlines():
                faults += [f"{shown}: {fault}" for fault in faults_of(line, known, targets)]
        faults += [f"{shown}: no file '{link}'" for link in LINK.findall(text) if not (page.parent / link).exists()]
    print("\n".join(faults) if faults else "readme: every printed command and linked file exists")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
