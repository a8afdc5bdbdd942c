"""The smallest contestant: it adds numbers when asked; the tests of the pipe speak with it."""

from __future__ import annotations

import json
import sys

from benchmarks.peers.pipe import Turns


def main(settings: dict[str, int], turns: Turns) -> None:
    """Answers until the parent stops asking."""
    if "work" not in settings:
        raise SystemExit("no such setting: work")
    turns.answer()
    while True:
        command = turns.wait()
        print("printed by the child, and no answer")
        turns.answer(made=sum(range(settings["work"])) if command["do"] == "work" else 0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Turns())
