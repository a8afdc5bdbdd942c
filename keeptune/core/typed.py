"""Commands as people type them: every word quoted where a shell would read it otherwise."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def typed(*words: object, settings: Sequence[str] = ()) -> str:
    """One line for a shell; each of `settings` stands behind a `--set`.

    >>> typed("keeptune", "run", "my recipe.yaml", settings=["stages[0].epochs=1"])
    "keeptune run 'my recipe.yaml' --set 'stages[0].epochs=1'"
    """
    given = [word for setting in settings for word in ("--set", setting)]
    return shlex.join([*map(str, words), *given])
