"""A suite cut in two: questions that decide something during a run, and those that only the proof looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, TypeVar

from keeptune.data.suite import Suite

T = TypeVar("T")


def set_apart(suite: Suite, share: float, most: int) -> tuple[Suite, Suite]:
    """(what is set apart, the rest), of every task, corpus and list of requests.

    A question belongs to a part by a hash of its cluster, else of itself, so that clusters stay whole and the same
    questions are set apart whatever else the suite holds.

    Args:
        suite: the whole.
        share: of the clusters that is set apart, between 0 and 1.
        most: questions of each kind that the first part keeps; the others it leaves, and the rest does not have them.
    """

    def cut(items: Sequence[T], key: str, apart: bool) -> tuple[T, ...]:
        chosen = tuple(item for item in items if _apart(_key(item, key), share) == apart)
        return chosen[:most] if apart else chosen

    def part(apart: bool) -> Suite:
        return replace(
            suite,
            tasks=tuple(replace(task, items=cut(task.items, task.name, apart)) for task in suite.tasks),
            corpora=tuple(replace(one, documents=cut(one.documents, one.name, apart)) for one in suite.corpora),
            generations=tuple(replace(task, items=cut(task.items, task.name, apart)) for task in suite.generations),
            instructions=cut(suite.instructions, "instructions", apart),
        )

    return _without_empty(part(True)), _without_empty(part(False))


def _key(item: Any, name: str) -> str:
    return f"{name}|{item if isinstance(item, str) else item.cluster or item.id}"


def _apart(key: str, share: float) -> bool:
    return int.from_bytes(sha256(key.encode()).digest()[:8], "big") < share * 2**64


def _without_empty(suite: Suite) -> Suite:
    """Without tasks that have no question left."""
    return replace(
        suite,
        tasks=tuple(task for task in suite.tasks if task.items),
        corpora=tuple(corpus for corpus in suite.corpora if corpus.documents),
        generations=tuple(task for task in suite.generations if task.items),
    )
