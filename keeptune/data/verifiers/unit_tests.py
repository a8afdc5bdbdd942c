"""The answer is code, and its unit tests pass, in a child process that may do little else."""

from __future__ import annotations

import ast
import re
from functools import cached_property
from pathlib import Path

from pydantic import Field

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.core.files import read_json
from keeptune.data.verifiers import Verifier
from keeptune.data.verifiers._sandbox import passes

FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)


class UnitTests(Verifier):
    """The code of the answer, followed by the row's tests, ends without an error within `seconds`.

    It runs as a process of its own: an empty folder, no environment, no more than `megabytes` of memory, no new
    processes, files of at most a megabyte, no network where the system lets a process give it up. This bounds
    accidents; it is no wall against code that means harm: sample from models you trust, or run in a container.
    """

    tests: Path = Field(description="JSON file: row id to the Python code of its tests")
    seconds: float = Field(5.0, gt=0, le=600, description="processor seconds, and twice as many on the clock")
    megabytes: int = Field(512, ge=64, le=65_536, description="memory of the process")

    def fault(self, example: Example, answer: str) -> str | None:
        """`no Python`, `tests failed`, or None."""
        tests = self._tests.get(example.id)
        if not isinstance(tests, str):
            raise DataError(
                f"row {example.id} has no tests.",
                code="E-VERIFY-ROW",
                where={"file": str(self.tests), "key": example.id},
                fix="Give every row its tests, by its id.",
            )
        code = code_of(answer)
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "no Python"
        return (
            None if passes(f"{code}\n\n{tests}\n", seconds=self.seconds, megabytes=self.megabytes) else "tests failed"
        )

    def way(self, answer: str) -> str:
        """The syntax tree: names stay, comments and layout go."""
        return ast.dump(ast.parse(code_of(answer)))

    @cached_property
    def _tests(self) -> dict[str, object]:
        try:
            found = read_json(self.tests)
        except (OSError, ValueError) as error:
            raise DataError(
                f"the tests cannot be read: {error}",
                code="E-VERIFY-TESTS",
                where={"file": str(self.tests), "key": "verifier.tests"},
                fix='Write a JSON object: {"row id": "assert add(1, 2) == 3"}.',
            ) from error
        return found if isinstance(found, dict) else {}


def code_of(answer: str) -> str:
    r"""The first fenced block, else the whole answer.

    >>> code_of("Here it is:\n```python\nx = 1\n```\nDone.")
    'x = 1\\n'
    """
    match = FENCE.search(answer)
    return match.group(1) if match else answer
