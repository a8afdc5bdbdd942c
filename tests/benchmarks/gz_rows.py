"""Data files of the benchmarks, written by their tests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def gz_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Compressed JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path
