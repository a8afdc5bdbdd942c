"""Questions about which rows an instruction set is made of: some dialogues, how many, how diverse, how good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from keeptune.core.counting import counted
from keeptune.core.example import Example
from keeptune.data.split import TRAIN, split
from keeptune.recipes.sources import Source
from keeptune.studies._instruction_design import Design, Rows, drawn, unlike

TEST, OUTSIDE, DIALOGUES = "test rows", "rows from outside", "later turns of dialogues"
HALF = 0.5


@dataclass(frozen=True)
class Pool:
    """What the questions are asked of.

    Attributes:
        sources: by name: the target's, and any of `dialogues`, `narrow`, `rejected` and `outside`.
        target: name of the target's source: single-turn rows that are diverse and good.
        least: rows of the smallest arm.
        sizes: of the question of quantity.
        added: dialogues that are added.
        items: most rows of an exam.
        seed: of splits and exams.
    """

    sources: Mapping[str, Source]
    target: str
    least: int
    sizes: Sequence[int]
    added: int
    items: int
    seed: int

    @property
    def train(self) -> Rows:
        """Single-turn training rows, none of which is asked in an exam."""
        held = [*self.sources[self.target].test, *self.other("outside")]
        return unlike((row for row in self.sources[self.target].train if _answers(row) == 1), held)

    def other(self, name: str) -> Rows:
        """The rows of another source; none where there is no such source."""
        return self.sources[name].train if name in self.sources else ()


def add_rows(design: Design, pool: Pool) -> None:
    """`dialogues`, `quantity`, `diversity` and `quality`; those that the data does not carry are named."""
    train = pool.train
    design.exams[TEST] = drawn(pool.sources[pool.target].test, pool.items, pool.seed)
    design.exams[OUTSIDE] = drawn(pool.other("outside"), pool.items, pool.seed)
    if len(train) < pool.least:
        reason = (
            f"'{pool.target}' has {counted(len(train), 'training row')} of one answer; an arm needs {pool.least:,}."
        )
        design.refused |= dict.fromkeys(("dialogues", "quantity", "diversity", "quality"), reason)
        return
    first = _arm(design, train, pool.least, "rows")
    _add_dialogues(design, pool, train, first)
    sizes = sorted(size for size in pool.sizes if pool.least < size <= len(train))
    for size in sizes:
        design.compare("quantity", _arm(design, train, size, "rows"), first, TEST, OUTSIDE)
    too_many = [f"{size:,}" for size in pool.sizes if size > len(train)]
    if too_many:
        design.refused[f"quantity: {', '.join(too_many)} rows"] = (
            f"'{pool.target}' has {counted(len(train), 'training row')}."
        )
    elif not sizes:
        design.refused["quantity"] = f"no size above {counted(pool.least, 'row')} was named."
    _add_other(design, pool, "diversity", "narrow", first)
    _add_other(design, pool, "quality", "rejected", first)


def _add_other(design: Design, pool: Pool, question: str, name: str, first: str) -> None:
    """As many rows of the target's source against as many of another one."""
    held = [*pool.sources[pool.target].test, *pool.other("outside")]
    rows = unlike((row for row in pool.other(name) if _answers(row) == 1), held)
    if len(rows) < pool.least:
        has = f"'{name}' has {counted(len(rows), 'usable row')}; an arm needs {pool.least:,}."
        design.refused[question] = has if name in pool.sources else f"the recipe has no source '{name}'."
        return
    design.compare(question, first, _arm(design, rows, pool.least, f"{name} rows"), TEST, OUTSIDE)


def _add_dialogues(design: Design, pool: Pool, train: Rows, first: str) -> None:
    """Rows and some dialogues, against the rows alone and against the rows and the same dialogues' first exchanges."""
    rows = [row for row in pool.other("dialogues") if _answers(row) > 1]
    if len(rows) < 2 * pool.added:
        has = f"'dialogues' has {len(rows):,} of more than one answer; {2 * pool.added} are needed."
        missing = "the recipe has no source 'dialogues'."
        design.refused["dialogues"] = has if "dialogues" in pool.sources else missing
        return
    parts = split([opening(row) for row in rows], {"test": HALF}, pool.seed)  # threads that open alike stay together
    held = [rows[place] for place in parts["test"]]
    kept = [rows[place] for place in parts[TRAIN]]
    design.exams[DIALOGUES] = drawn(held, pool.items, pool.seed)
    more, cut = f"{first} + {pool.added} dialogues", f"{first} + {pool.added} first exchanges"
    design.arms[more] = lambda draw: drawn(train, pool.least, draw) + drawn(kept, pool.added, draw)
    design.arms[cut] = lambda draw: (
        drawn(train, pool.least, draw) + tuple(opening(row) for row in drawn(kept, pool.added, draw))
    )
    design.compare("dialogues", more, first, DIALOGUES, TEST)
    design.compare("dialogues", more, cut, DIALOGUES, TEST)


def _arm(design: Design, rows: Rows, count: int, what: str) -> str:
    name = f"{count:,} {what}"
    design.arms[name] = lambda draw: drawn(rows, count, draw)
    return name


def opening(row: Example) -> Example:
    """A dialogue cut after its first answer."""
    end = next(place for place, turn in enumerate(row.messages) if turn.role == "assistant")
    return replace(row, id=f"{row.id}-opening", messages=row.messages[: end + 1])


def _answers(row: Example) -> int:
    return sum(turn.role == "assistant" for turn in row.messages)
