"""The rows of one source for `keeptune check`: read again for each look, so that no file has to fit into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from keeptune.core.example import Example
from keeptune.data.formats import FileFormat
from keeptune.data.formats.generated import Generated
from keeptune.data.read import refuse_unshifted, stream
from keeptune.data.source_file import locate
from keeptune.data.split import OOD, TRAIN, Draw, stated_parts, within
from keeptune.data.survey import Survey, survey
from keeptune.recipes.sources import Source, read_sources

if TYPE_CHECKING:
    from keeptune.recipes.recipe import Recipe

TAKES_A_WHILE = 32 << 20


@dataclass
class Feed:
    """One source.

    Attributes:
        name: in the recipe.
        counts: of the reading, and rows by part.
        held: rows that are measured (test, dev, ood).
        notes: what the file says of itself.
        seed: of the recipe.
        rows: that are learned from, about; for the progress bar.
    """

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    held: list[Example] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    seed: int = 0
    _train: tuple[Example, ...] = ()
    _file: tuple[FileFormat, Path, Draw | None] | None = None

    def train(self) -> Iterator[Example]:
        """Rows that are learned from, in order."""
        if self._file is None:
            yield from self._train
        else:
            share = self._file[0].subset
            yield from (row for row in self._of(train=True) if within(row, share, self.seed))

    def hold(self) -> None:
        """Reads the rows that are measured."""
        if self._file is not None and self._file[2] is not None:
            self.held = list(self._of(train=False))
            self.rows -= len(self.held)

    def _of(self, *, train: bool) -> Iterator[Example]:
        assert self._file is not None
        source, path, draw = self._file
        for outcome in stream(source, path, Counter()):
            if isinstance(outcome, Example) and (draw is None or (draw.part(outcome) == TRAIN) is train):
                yield replace(outcome, source=self.name)


def feeds_of(recipe: Recipe, folder: Path, surveys: dict[str, Survey]) -> dict[str, Feed]:
    """A feed for every source but the generated ones; `surveys` are those of the files.

    Raises:
        DataError: a part of the target's split would be empty, or the embedded task cannot be made.
    """
    trained = {name for stage in recipe.stages for name in stage.sources()}
    target = getattr(recipe.proof.target, "data", None) if recipe.proof and recipe.proof.target else None
    found: dict[str, Feed] = {}
    for name, settings in recipe.data.items():
        if isinstance(settings, FileFormat):
            found[name] = _of_file(name, settings, surveys[name], recipe, split=name == target and name in trained)
            shifted = recipe.proof is not None and name == recipe.proof.ood
            if (name == target and name not in trained) or shifted:
                found[name].held = list(found[name].train())
        elif not isinstance(settings, Generated):
            alone = recipe.model_copy(update={"data": {name: settings}})
            found[name] = _of_memory(read_sources(alone, folder)[name])
    return found


def surveys_of(recipe: Recipe, folder: Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Survey]:
    """A first look at every file of a recipe; `say` hears of those that take a while."""
    found = {}
    for name, source in recipe.data.items():
        if isinstance(source, FileFormat):
            path = locate(source.path, folder)
            if path.is_file() and (size := path.stat().st_size) > TAKES_A_WHILE:
                say(f"{name}: a first look at {path.name}, {size >> 20:,} MiB")
            found[name] = survey(source, folder)
    return found


def _of_file(name: str, source: FileFormat, seen: Survey, recipe: Recipe, *, split: bool) -> Feed:
    shares = {part: share for part, share in (("dev", recipe.split.dev), ("test", recipe.split.test)) if share > 0}
    refuse_unshifted(source, seen.path, OOD in seen.said)
    stated = stated_parts(seen.said)
    draw = Draw(shares, recipe.seed, stated) if split else None
    feed = Feed(name, dict(seen.counts), rows=seen.counts["kept"], seed=recipe.seed, _file=(source, seen.path, draw))
    feed.notes.append(f"to refuse another file than this one, write `sha256: {seen.digest[:16]}`")
    if stated:
        told = ", ".join(f"{part or 'unnamed'} {count:,}" for part, count in sorted(seen.said.items()))
        use = "decides what is held out" if split else "is not used, for nothing is measured on this source"
        feed.notes.append(f"the column `split` {use}: {told}")
    if source.subset < 1:
        feed.notes.append(f"a subset of {source.subset:g} of the training rows is used")
    feed.hold()
    if draw is not None:
        parts = Counter(draw.part(row) for row in feed.held)
        feed.counts.update({TRAIN: feed.rows, **{part: parts[part] for part in draw.names if part != TRAIN}})
    return feed


def _of_memory(source: Source) -> Feed:
    held = [*source.test, *source.dev, *source.ood]
    counts = {**source.counts, **source.split_counts()}
    return Feed(source.name, counts, held, rows=len(source.train), _train=source.train)
