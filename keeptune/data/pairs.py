"""Two answers to one prompt as one row with two endings, so that nothing can part them."""

from __future__ import annotations

from dataclasses import replace

from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.encoder import Encoded
from keeptune.data.fork import Fork
from keeptune.data.starts import LOST


def with_worse(example: Example) -> Example:
    """The conversation as it would be with the worse answer."""
    assert example.rejected is not None, "asked only of a pair"
    return replace(example, messages=(*example.prompt, Message("assistant", example.rejected)), rejected=None)


def paired(better: Encoded, worse: Encoded, line: int | None = None) -> Encoded:
    """The row of a pair, of which only the last answers are learned.

    Args:
        better: the conversation with the better answer.
        worse: the same one with the worse answer.
        line: of the pair in its file.

    Raises:
        DataError: the tokens before the two answers differ, or one of them has no token (E-DATA-PAIR).
    """
    start, other = _start(better), _start(worse)
    if start is None or other is None:
        raise _unusable("one of the two answers has no token that could be learned.", better, line, "Delete the row.")
    if better.tokens[:start] != worse.tokens[:other]:
        raise _unusable(
            "the tokenizer reads the prompt differently before the two answers.", better, line,
            "Take a chat template that ends the prompt with a token of its own.",
        )  # fmt: skip
    fork = Fork(start - 1, len(better.tokens))
    learned = (*(False,) * start, *better.learned[start:], False, *worse.learned[start:])
    return replace(better, tokens=(*better.tokens, *worse.tokens[start - 1 :]), learned=learned, fork=fork)


def _start(row: Encoded) -> int | None:
    """The token at which the last answer begins; None where it has none to learn."""
    if not any(row.learned):
        return None
    said = row.starts.answers[-1] if row.starts.answers else LOST
    start = said if said != LOST else _last_run(row.learned)
    return start if any(row.learned[start:]) else None


def _last_run(learned: tuple[bool, ...]) -> int:
    """Where the last run of learned tokens begins."""
    end = len(learned) - learned[::-1].index(True)
    return next((place for place in range(end - 1, 0, -1) if not learned[place - 1]), 1)


def _unusable(what: str, row: Encoded, line: int | None, fix: str) -> DataError:
    return DataError(what, code="E-DATA-PAIR", where={"line": line, "key": row.source or None}, fix=fix)
