"""Files of JSON lines that a run appends to: `events.jsonl`, `metrics.jsonl`.

A kill in the middle of a write leaves half a line at the end, a power cut perhaps a block of zeros. Readers stop
before it; the next run cuts it off before it appends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from keeptune.core.files import announce, sync


def now() -> str:
    """The time in UTC to the millisecond, as ISO 8601; a change of time zone does not show."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; none when it is not there."""
    return [plain for plain, _ in _complete(path)]


def cut_broken_end(path: Path) -> int:
    """Removes what follows the last complete line; returns the number of bytes removed."""
    if not path.exists():
        return 0
    good = max((end for _, end in _complete(path)), default=0)
    surplus = path.stat().st_size - good
    if surplus:
        announce("cut", path)
        os.truncate(path, good)
        sync(path)
    return surplus


def _complete(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each line that holds an object, with the offset of its end; stops at the first one that does not."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                plain = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                plain = None
            if not isinstance(plain, dict):
                return
            end += len(line)
            yield plain, end
