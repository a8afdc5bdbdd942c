"""SHA-256 of plain data, of a file, of a folder."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def digest_of(plain: Any) -> str:
    """SHA-256 (hexadecimal) of canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the relative names and digests of all files below `folder`.

    The folder's own name and place, file times and modes do not matter; a renamed, added, removed or changed file does.
    """
    return digest_of({name: file_digest(folder / name) for name in files_below(folder)})


def files_below(folder: Path) -> list[str]:
    """Relative POSIX paths of the files below `folder`, sorted."""
    found = []
    for parent, _, names in os.walk(folder):
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in names]
    return sorted(found)
