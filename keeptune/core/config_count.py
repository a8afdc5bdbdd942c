"""A whole number from the plain data of a `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeptune.core.errors import ModelError


def count(config: Mapping[str, Any], key: str, usual: int | None = None) -> int:
    """The positive whole number under `key`, or the usual one where the config leaves it out.

    Raises:
        ModelError: the key is missing or no positive whole number (E-MODEL-CONFIG).
    """
    value = config.get(key)
    value = usual if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(
            f"'{key}' is {value!r}; a positive whole number is needed." if key in config else f"'{key}' is missing.",
            code="E-MODEL-CONFIG",
            where={"file": "config.json", "key": key},
            fix="Use the config.json that belongs to the weights.",
        )
    return value
