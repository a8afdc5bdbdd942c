"""Counts as people say them: one row, two rows."""

from __future__ import annotations


def counted(count: int, noun: str, many: str = "") -> str:
    """A number with its noun, which is `many` where there is not one; without `many`, the noun with an s.

    >>> [counted(count, "row") for count in (0, 1, 1200)]
    ['0 rows', '1 row', '1,200 rows']
    >>> counted(1, "row is", "rows are")
    '1 row is'
    """
    return f"{count:,} {noun if count == 1 else many or f'{noun}s'}"
