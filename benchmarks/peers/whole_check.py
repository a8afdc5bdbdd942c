"""`keeptune check` of one recipe, in a process that does nothing else: its time and its peak."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.check import own
from benchmarks.peers.pipe import Turns


def main(settings: dict[str, Any], turns: Turns) -> None:
    """Checks when asked, with an empty cache.

    Args:
        settings: `folder` of the recipe and its rows.
        turns: the pipe.
    """
    folder = Path(settings["folder"])
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    turns.answer()
    turns.wait()
    turns.answer(**own(folder))


if __name__ == "__main__":
    pipe = Turns()
    main(json.loads(sys.argv[1]), pipe)
    pipe.wait()
