"""The exception tree. Every error says where, what, why, and what to do, in the user's words.

    KeeptuneError               exit code
      RecipeError        2      a recipe, a setting or a command line
      PlanError          2      what was asked cannot work on this model or machine
      DataError          3      a data file or a row of it
      ModelError         4      a model, tokenizer or adapter folder
      MachineError       4      a folder, a disk, a device, a lock
        MissingDependency       an optional package, with the pip line that adds it
      DivergedError      5      loss or gradient is not finite
      Interrupted       75      a signal stopped the run; the same command resumes it

Anything else that reaches the command line is a bug of ours (exit code 70) and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

VERDICT_EXIT = {"PASS": 0, "FAIL": 1, "UNDECIDED": 6}
"""What a command ends with when it ends in a certificate."""


class KeeptuneError(Exception):
    """An error that the user can act on.

    Args:
        what: one sentence in the user's words, values quoted.
        code: stable identifier such as `E-DATA-JSON`; all codes stand in `docs/errors.md`.
        where: place: any of `file`, `line`, `column`, `key`.
        why: the consequence or the reason, when it is not obvious.
        fix: what to do.
    """

    exit_code = 2

    def __init__(
        self, what: str, *, code: str, where: Mapping[str, Any] | None = None, why: str = "", fix: str = ""
    ) -> None:
        super().__init__(what)
        self.code, self.what, self.why, self.fix = code, what, why, fix
        known = {key: value for key, value in (where or {}).items() if value is not None}
        self.where = {key: str(value) if isinstance(value, Path) else value for key, value in known.items()}

    @property
    def place(self) -> str:
        """The place as people write it: `data.jsonl line 3 column 7, stages[0].method`."""
        file, line, column, key = (self.where.get(name) for name in ("file", "line", "column", "key"))
        spot = " ".join(
            part for part in (file and str(file), line and f"line {line}", column and f"column {column}") if part
        )
        return ", ".join(part for part in (spot, key and str(key)) if part)

    def __str__(self) -> str:
        head = f"{self.place}: {self.what}" if self.place else self.what
        return " ".join(part for part in (head, self.why, self.fix) if part)

    def to_dict(self) -> dict[str, Any]:
        """The form that `--json` prints under `error`."""
        return {"code": self.code, "where": self.where, "what": self.what, "why": self.why, "fix": self.fix}


class RecipeError(KeeptuneError):
    """A recipe, a setting or a command line is wrong. `problems` holds every fault found, not the first only."""

    def __init__(
        self,
        what: str,
        *,
        code: str,
        where: Mapping[str, Any] | None = None,
        why: str = "",
        fix: str = "",
        problems: Iterable[RecipeError] = (),
    ) -> None:
        super().__init__(what, code=code, where=where, why=why, fix=fix)
        self.problems = list(problems)

    @classmethod
    def together(cls, problems: list[RecipeError]) -> RecipeError:
        """One error that carries all of them; a single problem is returned as it is."""
        if len(problems) == 1:
            return problems[0]
        first = problems[0]
        text = f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems)
        return cls(text, code=first.code, where=first.where, problems=problems)

    def __str__(self) -> str:
        return self.what if self.problems else super().__str__()

    def to_dict(self) -> dict[str, Any]:
        """As `KeeptuneError.to_dict`, with `problems` when there is more than one."""
        plain = super().to_dict()
        if self.problems:
            plain["problems"] = [problem.to_dict() for problem in self.problems]
        return plain


class PlanError(KeeptuneError):
    """What was asked cannot work on this model or machine; raised before any compute."""


class DataError(KeeptuneError):
    """A data file, or a row of one, cannot be used."""

    exit_code = 3


class ModelError(KeeptuneError):
    """A model, tokenizer or adapter folder cannot be used."""

    exit_code = 4


class MachineError(KeeptuneError):
    """A folder, disk, device or lock stands in the way."""

    exit_code = 4


class MissingDependency(MachineError):
    """An optional package is not installed."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package '{package}', which is not installed.",
            code="E-ENV-MISSING",
            fix=f"Run: pip install 'keeptune[{extra}]'",
        )


class DivergedError(KeeptuneError):
    """Loss or gradient stopped being finite; the last good commit is kept."""

    exit_code = 5


class Interrupted(KeeptuneError):
    """A signal stopped the run after a commit; the same command resumes it."""

    exit_code = 75


def written(value: object) -> str:
    """A plain value as a recipe writes it: `null` and `true`, where Python says None and True.

    >>> [written(value) for value in (None, True, 3, "lora")]
    ['null', 'true', '3', 'lora']
    """
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'lora'? Known: full, lora, prompt.`, with at most eight names; empty when nothing is known.

    >>> did_you_mean("promt", ["full", "lora", "prompt"])
    "Did you mean 'prompt'? Known: full, lora, prompt."
    """
    names = sorted(known)
    if not names:
        return ""
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else ".")
    return (f"Did you mean '{near[0]}'? " if near else "") + f"Known: {shown}"
