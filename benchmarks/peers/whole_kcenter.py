"""`kcenter` on a million vectors, in a process that holds nothing else: its time and its peak."""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.kcenter import clustered
from benchmarks.peers.pipe import Turns
from keeptune.core.example import Example
from keeptune.core.spec import validate
from keeptune.selectors import Context, Selector


def main(settings: dict[str, Any], turns: Turns) -> None:
    """Makes vectors and rows, says so, and chooses when asked.

    Args:
        settings: `points`, `width`, `centres`, `seed`.
        turns: the pipe.
    """
    count = settings["points"]
    context = Context(seed=settings["seed"], embeddings=clustered(count, settings["width"], settings["seed"]))
    rows = [Example(str(place), text="a row") for place in range(count)]
    turns.answer()
    turns.wait()
    found = validate(Selector, {"name": "kcenter", "rows": settings["centres"]}).select(rows, context)
    turns.answer(chosen=len(set(found.indices)), last=found.scores[-1])


if __name__ == "__main__":
    pipe = Turns()
    main(json.loads(sys.argv[1]), pipe)
    pipe.wait()
