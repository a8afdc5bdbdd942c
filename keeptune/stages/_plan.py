"""The rows of every optimiser step, decided before the first one."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from keeptune.core.errors import DataError, RecipeError, did_you_mean
from keeptune.data.mixing import sampled
from keeptune.data.packing import plan_batches

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded, EncodedSet
    from keeptune.stages.train import Train


class Plan(Dataset[int]):
    """Global batches in order; item i is i, and `rows(i)` what it stands for.

    Attributes:
        seed: the order was made with.
        sources: the digest of each source's rows.
    """

    def __init__(self, sets: Mapping[str, Sequence[Encoded]], batches: list[list[int]], seed: int) -> None:
        self._rows = [row for rows in sets.values() for row in rows]
        self._batches, self.seed = batches, seed
        self.sources = {name: rows_digest(rows) for name, rows in sorted(sets.items())}

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> int:
        return step

    def rows(self, step: int) -> list[Encoded]:
        """The rows of a step, as they were drawn."""
        return [self._rows[number] for number in self._batches[step]]

    @property
    def drawn(self) -> int:
        """Rows of all steps together; one that comes twice counts twice."""
        return sum(map(len, self._batches))

    def drawn_from(self, sources: Container[str]) -> int:
        """As `drawn`, of the rows of these sources."""
        return sum(self._rows[number].source in sources for batch in self._batches for number in batch)

    def unique_rows(self) -> list[Encoded]:
        """Every row that some step holds, once, in the order of the data."""
        return [self._rows[number] for number in sorted({number for batch in self._batches for number in batch})]

    @property
    def digest(self) -> str:
        """SHA-256 of the order."""
        digest = hashlib.sha256()
        for batch in self._batches:
            digest.update(array("q", [len(batch), *batch]).tobytes())
        return digest.hexdigest()


def plan_steps(stage: Train, data: Mapping[str, EncodedSet], seed: int, overhead_tokens: int) -> Plan:
    """Draws the batches of a stage.

    Args:
        stage: shares, epochs or steps, tokens per batch.
        data: the encoded rows of each source.
        seed: of the stage.
        overhead_tokens: virtual tokens that every row brings along.

    Raises:
        RecipeError: a source does not exist (E-TRAIN-SOURCE), or a loss runs over none (E-TRAIN-LOSS).
        DataError: a source has nothing to learn from (E-TRAIN-NOTHING), or a loss over pairs has none (E-TRAIN-PAIRS).
    """
    for source in stage.shares:
        if source not in data:
            raise RecipeError(
                f"the stage trains on '{source}', which is no source of the recipe.",
                code="E-TRAIN-SOURCE",
                where={"key": "data"},
                fix=did_you_mean(source, data),
            )
        if not any(any(row.learned[1:]) or row.answer is not None for row in data[source].rows):
            raise DataError(
                f"'{source}' has no token to learn from.",
                code="E-TRAIN-NOTHING",
                where={"key": f"data.{source}"},
                why="Every row is empty, or all of its tokens are context.",
                fix="Look at `keeptune check`: rows may have been dropped or cut, or the answers are empty.",
            )
    for loss in stage.losses:
        if loss.on is not None and loss.on not in stage.shares:
            raise RecipeError(
                f"the loss '{loss.name}' runs on '{loss.on}', which this stage does not train on.",
                code="E-TRAIN-LOSS",
                where={"key": "losses"},
                fix=did_you_mean(loss.on, stage.shares),
            )
    _require_pairs(stage, data)
    sets = {name: _drawn_from(stage, name, _as_read(stage, name, data[name].rows), seed) for name in stage.shares}
    batches = plan_batches(
        {source: [len(row.tokens) for row in rows] for source, rows in sets.items()},
        stage.shares,
        batch_tokens=stage.batch_tokens,
        seed=seed,
        epochs=stage.epochs if stage.epochs or stage.steps else 1.0,
        steps=stage.steps,
        overhead_tokens=overhead_tokens,
        packing=stage.packing,
    )
    return Plan(sets, batches, seed)


def _as_read(stage: Train, source: str, rows: Sequence[Encoded]) -> Sequence[Encoded]:
    """Rows with two endings where a loss reads pairs; elsewhere with the better one alone."""
    return rows if source in stage.paired else [row.endings[0] for row in rows]


def _require_pairs(stage: Train, data: Mapping[str, EncodedSet]) -> None:
    """Refuses a loss over pairs where no row that it reads has two answers."""
    for loss in stage.losses:
        read = [source for source in stage.shares if loss.on in (None, source)]
        if loss.reads_pairs and not any(row.fork for source in read for row in data[source].rows):
            named = " and ".join(f"'{source}'" for source in read)
            raise DataError(
                f"'{loss.name}' compares a better with a worse answer, and no row of {named} has both.",
                code="E-TRAIN-PAIRS",
                where={"key": f"data.{read[0]}"},
                fix="Name rows of the format `preference`.",
            )


def _drawn_from(stage: Train, source: str, rows: Sequence[Encoded], seed: int) -> Sequence[Encoded]:
    """The rows of a source, or the share of those that can be learned from that the stage wants of it."""
    if source not in stage.sample:
        return rows
    useful = [row for row in rows if any(row.learned[1:]) or row.answer is not None]
    places = sampled([row.id for row in useful], stage.sample[source], f"sample|{seed}|{source}")
    return [useful[place] for place in places]


def rows_digest(rows: Sequence[Encoded]) -> str:
    """SHA-256 of ids, tokens and masks, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.id}\0{len(row.tokens)}\0".encode())
        digest.update(array("q", row.tokens).tobytes())
        digest.update(bytes(row.learned))
        digest.update((row.answer or "").encode())
        digest.update(b"" if row.fork is None else array("q", row.fork).tobytes())
    return digest.hexdigest()
