"""Checkpoint: a base reference plus an ordered stack of adapters; what stages exchange."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Scope = str
"""`always`: an adapter answers everybody. `task`: it is active only for the run's task. Else the name of a source: for
the rows of that source, where it stands in the place of what has the scope `task`."""


@dataclass(frozen=True)
class AdapterRef:
    """An adapter folder and when it is active.

    Attributes:
        name: the name it is attached under.
        path: its folder.
        scope: for whom it is active; `task` and the names of sources are routed, as ProMoT's prompt is.
    """

    name: str
    path: Path
    scope: Scope = "always"


@dataclass(frozen=True)
class Checkpoint:
    """A base model and what was put on it, in the order of attaching.

    Attributes:
        base: `pocket`, a folder, or a hub id.
        revision: of a hub id.
        dtype: name of the dtype that the weights are loaded in.
        adapters: the stack; the last is the newest.
        quantize: `nf4` when the linear maps of the blocks are loaded in 4 bits.
    """

    base: str
    revision: str | None = None
    dtype: str = "bfloat16"
    adapters: tuple[AdapterRef, ...] = ()
    quantize: str | None = None

    @property
    def deployment(self) -> Literal["always_on", "routed"]:
        """`routed` as soon as one adapter is active only for some task."""
        return "routed" if any(adapter.scope != "always" for adapter in self.adapters) else "always_on"

    def to_dict(self, relative_to: Path | None = None) -> dict[str, Any]:
        """Plain data; paths inside `relative_to` are written relative to it, so that the folder can be moved."""

        def shown(path: str | Path) -> str:
            inside = relative_to is not None and Path(path).is_absolute() and Path(path).is_relative_to(relative_to)
            return str(Path(path).relative_to(relative_to)) if inside and relative_to else str(path)

        adapters = [{"name": ref.name, "path": shown(ref.path), "scope": ref.scope} for ref in self.adapters]
        return {
            "base": shown(self.base),
            "revision": self.revision,
            "dtype": self.dtype,
            "quantize": self.quantize,
            "adapters": adapters,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], relative_to: Path | None = None) -> Checkpoint:
        """The inverse of `to_dict`."""

        def found(path: str) -> str:
            inside = relative_to is not None and not Path(path).is_absolute() and (relative_to / path).exists()
            return str(relative_to / path) if inside and relative_to else path

        adapters = tuple(AdapterRef(ref["name"], Path(found(ref["path"])), ref["scope"]) for ref in plain["adapters"])
        return cls(found(plain["base"]), plain["revision"], plain["dtype"], adapters, plain.get("quantize"))


def serving(scopes: Iterable[tuple[str, Scope]], source: str, *, task: bool) -> tuple[str, ...]:
    """The names of the adapters that serve a source's rows, in order.

    Args:
        scopes: name and scope of every adapter.
        source: whose rows.
        task: whether it belongs to the run's task.

    >>> adapters = [("all", "always"), ("one", "task"), ("two", "second")]
    >>> [serving(adapters, source, task=source == "task") for source in ("task", "second", "general")]
    [('all', 'one'), ('all', 'two'), ('all',)]
    """
    known = list(scopes)
    own = any(scope == source for _, scope in known)
    return tuple(name for name, scope in known if scope in ("always", source) or (scope == "task" and task and not own))
