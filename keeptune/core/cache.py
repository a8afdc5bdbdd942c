"""Where things are kept that can be made again: base scores, encoded rows, states, the base's own text, docstrings."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache, by the XDG convention; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keeptune"
