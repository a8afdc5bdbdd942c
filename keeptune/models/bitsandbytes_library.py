"""The one file that imports bitsandbytes: 4-bit weights, and the optimisers that only it has."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from keeptune.core.errors import MissingDependency


def bitsandbytes_for(purpose: str) -> Any:
    """The module `bitsandbytes`.

    Args:
        purpose: what needs it, for the message.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        return _imported()
    except ImportError:
        raise MissingDependency("bitsandbytes", extra="quant", needed_for=purpose) from None


@cache
def _imported() -> Any:
    with _without_fetching():
        import bitsandbytes
    return bitsandbytes


@contextlib.contextmanager
def _without_fetching() -> Iterator[None]:
    """On some processors bitsandbytes fetches a kernel from the hub when it is imported, through the package `kernels`.

    keeptune fetches nothing that was not asked for, and its own 4-bit product needs no such kernel; so the package is
    out of sight for the length of the import, and the complaint about that is not shown.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    seen, level = sys.modules.get("kernels"), logger.level
    sys.modules["kernels"] = None  # type: ignore[assignment]
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        del sys.modules["kernels"]
        if seen is not None:
            sys.modules["kernels"] = seen
