"""Writes `docs/errors.md`: every error code with what it says, read from the source.

Run as `python scripts/error_page.py`; with `--check` it only says whether the page is up to date.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
CODE = re.compile(r"E-[A-Z0-9]+(?:-[A-Z0-9]+)*$")
SUFFIX = re.compile(r"[A-Z][A-Z0-9-]+$")
HEAD = """\
# Error codes

Every error that a user can cause has a code that does not change, a place, and a remedy. On a terminal it is one line
on standard error; with `--json` it is the only object on standard output:

```json
{"error": {"code": "E-DATA-JSON", "where": {"file": "task.jsonl", "line": 812, "column": 7}, "what": "...", "why": "...", "fix": "..."}}
```

Exit codes: 0 done, 1 the proof says FAIL, 2 usage or recipe, 3 data, 4 model or machine, 5 diverged, 6 the proof is
UNDECIDED, 70 a bug of ours, 75 interrupted (the same command resumes).

This page is written by `python scripts/error_page.py`; an ellipsis stands for a value.

| code | what it says |
|---|---|
"""  # noqa: E501


def text_of(node: ast.AST) -> str | None:
    """A string or f-string as text, values as an ellipsis; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return None if left is None and right is None else (left or "…") + (right or "…")
    return None


def codes_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(code, message) of every place that makes an error."""
    makers = dict(_makers(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        given = [*node.args, *[keyword.value for keyword in node.keywords]]
        texts = [text for argument in given if (text := text_of(argument)) is not None]
        said = [*node.args, *[keyword.value for keyword in node.keywords if keyword.arg == "what"]]
        messages = [text for argument in said if " " in (text := text_of(argument) or "")]
        for text in texts:
            if CODE.match(text):
                yield text, messages[0] if messages else ""
        prefix = makers.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if prefix:
            for text in texts:
                if SUFFIX.match(text):
                    yield prefix + text, messages[0] if messages else ""


def _makers(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Functions of a file that put a prefix before a code: name and prefix."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                text = text_of(node) if isinstance(node, ast.JoinedStr) else None
                if text and text.startswith("E-") and text.endswith("-…"):
                    yield function.name, text.removesuffix("…")


def page() -> str:
    """The whole page."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "keeptune").rglob("*.py")):
        for code, message in codes_in(ast.parse(path.read_text(encoding="utf-8"))):
            shown = " ".join(message.split()).replace("|", "\\|")
            if shown and shown not in found[code]:
                found[code].append(shown)
            found.setdefault(code, [])
    rows = [f"| `{code}` | {'<br>'.join(found[code][:4]) or '(the reason in full)'} |" for code in sorted(found)]
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Writes or checks the page."""
    text = page()
    if "--check" in sys.argv:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("errors: the page is up to date" if same else "errors: run python scripts/error_page.py")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
