"""At which tokens other programs stop when they generate with a model: what its own folder says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keeptune.core.files import read_json


def generation_stops(folder: Path) -> frozenset[int]:
    """`eos_token_id` of generation_config.json, else of config.json; nothing where neither names any."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            stated: Any = read_json(folder / name).get("eos_token_id")
            found = stated if isinstance(stated, list) else [stated]
            if found := [token for token in found if isinstance(token, int)]:
                return frozenset(found)
    return frozenset()
