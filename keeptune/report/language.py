"""The page's language: what it says is written in English and looked up for the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from keeptune.report.chinese import CHINESE, REASONS

Language = Literal["en", "zh"]
_spoken: ContextVar[Language] = ContextVar("_spoken", default="en")


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """Inside, `say` speaks this language."""
    token = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(token)


def say(text: str, **values: object) -> str:
    """The text in the language of the page, `{name}` filled in; English where there is no translation.

    Names of tasks, prompts and answers are not passed as `text`: they stay as they are.

    >>> with speaking("zh"):
    ...     say("{change} points", change="+1.0")
    '+1.0 个百分点'
    """
    chosen = CHINESE.get(text, text) if _spoken.get() == "zh" else text
    return chosen.format(**values) if values else chosen


def retell(reason: str) -> str:
    """A reason or note from the certificate in the language of the page; as it stands where it is none that is known.

    >>> with speaking("zh"):
    ...     retell("12 effective clusters; 30 are needed")
    '有效簇数 12；至少需要 30'
    """
    if _spoken.get() == "zh":
        for pattern, chinese in REASONS:
            found = re.fullmatch(pattern, reason)
            if found:
                return chinese.format(*found.groups())
    return reason
