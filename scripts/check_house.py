"""Checks that hold the house together: sizes, forbidden names and calls, mutual imports; nothing speaks of a machine.

Run as `python scripts/check_house.py`; prints each fault as `file:line: what` and exits 1 if there is one.
"""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE, MAX_FUNCTION = 400, 50
FORBIDDEN_FILES = {"utils", "common", "misc", "helpers", "base", "constants", "manager"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__"}
FORBIDDEN_IMPORTS = {"pickle", "joblib", "dill", "cloudpickle", "shelve"}
FORBIDDEN_ATTRIBUTES = {("torch", "load"), ("torch", "save"), ("yaml", "load"), ("yaml", "unsafe_load")}
# Back ends that may be imported in one file of the package only.
ONE_PLACE = {"trl", "lm_eval", "bitsandbytes", "ray", "faiss"}
# Where no two modules import each other.
NOT_MUTUAL = "keeptune.engine."
PATHS = re.compile(r"(?<![\w.])/(?:work|farm|root|home/\w+)/")
INDEXES = re.compile("|".join(("py" + "pi.org", "python" + "hosted", "download.py" + "torch", "registry.np" + "mjs")))


def tracked(*patterns: str) -> list[Path]:
    """The files that git tracks, or every file when this is no checkout."""
    found = subprocess.run(["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, check=False)
    names = [name for name in found.stdout.decode().split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def file_faults(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Faults that need no syntax tree."""
    lines = text.splitlines()
    if path.suffix == ".py" and len(lines) > MAX_FILE and "tests" not in path.parts:
        yield 1, f"{len(lines)} lines; a file has at most {MAX_FILE} (two subjects?)"
    if path.suffix == ".py" and path.stem in FORBIDDEN_FILES:
        yield 1, f"a file named '{path.stem}' has no subject"
    for number, line in enumerate(lines, start=1):
        if PATHS.search(line):
            yield number, "a path of some machine"
        if INDEXES.search(line):
            yield number, "the address of a package index"


def syntax_faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Long functions, forbidden calls and imports."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = code_lines(node)
            if length > MAX_FUNCTION:
                yield node.lineno, f"'{node.name}' has {length} lines of code; a function has at most {MAX_FUNCTION}"
        elif isinstance(node, ast.Call):
            yield from call_faults(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in FORBIDDEN_IMPORTS.intersection(imported(node)):
                yield node.lineno, f"an import of {name}"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, which is to be as long as it needs."""
    first = function.body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    written = (first.end_lineno or first.lineno) - first.lineno + 1 if docstring else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - written


def call_faults(node: ast.Call) -> Iterator[tuple[int, str]]:
    """Calls that the house does not make."""
    called = node.func
    if isinstance(called, ast.Name) and called.id in FORBIDDEN_CALLS:
        yield node.lineno, f"a call of {called.id}"
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        pair = (called.value.id, called.attr)
        if pair in FORBIDDEN_ATTRIBUTES:
            yield node.lineno, f"a call of {'.'.join(pair)}"


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Top-level packages that a statement imports."""
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").split(".")[0]] if node.level == 0 else []
    return [alias.name.split(".")[0] for alias in node.names]


def mutual_faults(modules: dict[str, ast.AST]) -> Iterator[str]:
    """Pairs of modules that import each other, be it in a function or for a type alone."""
    imports = {
        name: {
            found
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for found in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        }
        for name, tree in modules.items()
    }
    for one, other in itertools.combinations(sorted(imports), 2):
        if one in imports[other] and other in imports[one]:
            yield f"{one} and {other} import each other; what both need belongs into a third"


def main() -> int:
    """Prints the faults; 1 when there is one."""
    faults: list[str] = []
    places: dict[str, set[str]] = {name: set() for name in ONE_PLACE}
    modules: dict[str, ast.AST] = {}
    for path in tracked("*.py", "*.md", "*.toml", "*.yaml", "*.txt", "*.html", "*.json", "Makefile", ".ci/*"):
        shown = path.relative_to(ROOT)
        text = path.read_text(encoding="utf-8")
        faults += [f"{shown}:{line}: {what}" for line, what in file_faults(path, text)]
        if path.suffix != ".py" or shown.parts[0] not in ("keeptune", "scripts", "benchmarks"):
            continue
        tree = ast.parse(text)
        faults += [f"{shown}:{line}: {what}" for line, what in syntax_faults(tree)]
        module = ".".join(shown.with_suffix("").parts)
        if module.startswith(NOT_MUTUAL):
            modules[module] = tree
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)) and shown.parts[0] == "keeptune":
                for name in ONE_PLACE.intersection(imported(node)):
                    places[name].add(str(shown))
    faults += [f"{name} is imported in {', '.join(sorted(files))}" for name, files in places.items() if len(files) > 1]
    faults += mutual_faults(modules)
    print("\n".join(faults) if faults else "house: sizes, names, calls, imports and addresses are in order")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
