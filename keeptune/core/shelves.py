"""Shelves as folders: where one lies and what its files say of themselves, read without importing anything of it."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

QUOTES = '"""'


@cache
def shelf_folder(shelf: str) -> Path:
    """The folder of a shelf package, found without importing it or the packages that it lies in."""
    top, *inner = shelf.split(".")
    spec = importlib.util.find_spec(top)
    assert spec is not None, f"{top} is not a package"
    assert spec.submodule_search_locations, f"{top} is not a package"
    folder = Path(next(iter(spec.submodule_search_locations)), *inner)
    assert (folder / "__init__.py").is_file(), f"{shelf} is not a package"
    return folder


@cache
def first_line(path: Path) -> str:
    """The first line of a module's docstring; code behind it is not parsed."""
    source = path.read_text(encoding="utf-8")
    end = source.find(QUOTES, len(QUOTES)) if source.startswith(QUOTES) else -1
    text = ast.get_docstring(ast.parse(source if end < 0 else source[: end + len(QUOTES)])) or ""
    return text.strip().splitlines()[0] if text.strip() else ""
