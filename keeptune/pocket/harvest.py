"""Read text that every machine has: the docstrings of installed Python packages, taken from source with `ast`.

Nothing is imported. What is found depends on the installed versions, so the results are the same from run to run on one
machine and may differ between machines; a certificate's provenance has the digests. It is kept in the cache, for
thousands of files take seconds to parse, and is found again while no file has another size or time.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import json
import os
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from keeptune.core.cache import cache_folder
from keeptune.core.digest import digest_of
from keeptune.core.files import atomic_write, make_folder

VERSION = 1
"""Of what is kept."""
SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "_vendor"})


@dataclass(frozen=True)
class Docstring:
    """One docstring, dedented.

    Attributes:
        module: path of its file inside the installation, as `scipy/stats/_qmc`; `stdlib/` for the standard library.
        name: dotted name inside the module; empty for the module's own.
        text: the docstring.
    """

    module: str
    name: str
    text: str


@cache
def package_folder(package: str) -> Path | None:
    """Where the source of a top-level package lies; None when it is not installed. `stdlib` is the standard library."""
    if package == "stdlib":
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def source_files(place: str) -> list[tuple[str, Path]]:
    """The Python files below a place, as (module, path) in alphabetical order; none when it is not installed.

    Args:
        place: `package`, `package/folder` or `package/module`, such as `scipy/stats` or `stdlib/socket`.
    """
    package, _, inside = place.partition("/")
    root = package_folder(package)
    if root is None:
        return []
    single = root / f"{inside}.py"
    paths = [single] if inside and single.is_file() else _python_files(root / inside)
    return sorted(("/".join((package, *path.relative_to(root).with_suffix("").parts)), path) for path in paths)


def _python_files(folder: Path) -> Iterator[Path]:
    """Below a folder, without entering folders of tests: a place that is to be read although it is one is named."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        yield from (Path(parent, name) for name in files if name.endswith(".py"))


def docstrings(
    places: Iterable[str], without: Iterable[str] = (), most_files: int | None = None
) -> Iterator[Docstring]:
    """Every docstring below the places, in the order of the places, each different text once.

    Args:
        places: see `source_files`; those that are not installed are passed over.
        without: places to leave out, so that two uses of the same packages share nothing.
        most_files: read at most so many files of each place, spread evenly over it; None reads all.
    """
    left_out = tuple(without)
    files = [
        pair
        for place in places
        for pair in _spread(
            [
                (module, path)
                for module, path in source_files(place)
                if not any(module == other or module.startswith(other + "/") for other in left_out)
            ],
            most_files,
        )
    ]
    seen: set[str] = set()
    for found in kept(files):
        if found.text not in seen:
            seen.add(found.text)
            yield found


def kept(files: Sequence[tuple[str, Path]]) -> list[Docstring]:
    """The docstrings of these files, from the cache where they lie there."""
    place = cache_folder() / "docstrings" / f"{digest_of([module for module, _ in files])[:16]}.json"
    stamp = digest_of([[VERSION, str(path), *_state(path)] for _, path in files])
    try:
        old = json.loads(place.read_bytes())
        if old["stamp"] == stamp:
            return [Docstring(*parts) for parts in old["found"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, not whole, or of another version: made again
    found = [one for module, path in files for one in _of_file(module, path)]
    with suppress(OSError):  # a cache that cannot be written costs time and nothing else
        make_folder(place.parent)
        rows = [[one.module, one.name, one.text] for one in found]
        atomic_write(place, json.dumps({"stamp": stamp, "found": rows}))
    return found


def _state(path: Path) -> tuple[int, int]:
    try:
        known = path.stat()
    except OSError:
        return 0, 0
    return known.st_size, known.st_mtime_ns


def reference_topics() -> dict[str, str]:
    """The language reference that `help()` shows, by topic; empty where the installation has left it out."""
    for _, path in source_files("stdlib/pydoc_data/topics"):
        for node in _parse(path).body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
                return dict(sorted(ast.literal_eval(node.value).items()))
    return {}


def _spread(files: list[tuple[str, Path]], most: int | None) -> list[tuple[str, Path]]:
    return files if most is None or len(files) <= most else [files[i * len(files) // most] for i in range(most)]


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's sources
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            return ast.Module(body=[], type_ignores=[])


def _of_file(module: str, path: Path) -> list[Docstring]:
    found: list[Docstring] = []

    def visit(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> None:
        text = ast.get_docstring(node)
        if text:
            found.append(Docstring(module, name, text))
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                visit(child, f"{name}.{child.name}".lstrip("."))

    with _garbage_collector_paused():
        visit(_parse(path), "")
    return found


@contextmanager
def _garbage_collector_paused() -> Iterator[None]:
    """A syntax tree has no cycles, and walking every object of a process that has torch loaded doubles the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
