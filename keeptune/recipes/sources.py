"""The sources of a recipe: read, split by a stable hash, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from keeptune.core.counting import counted
from keeptune.core.digest import digest_of
from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.data.formats import Format
from keeptune.data.formats.embedded import Embedded
from keeptune.data.formats.generated import Generated
from keeptune.data.formats.invented_facts import InventedFacts
from keeptune.data.label_set import LABELLED
from keeptune.data.read import read_examples
from keeptune.data.split import split, within
from keeptune.data.suite import ChoiceTask

if TYPE_CHECKING:
    from keeptune.recipes.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """One source, split; what is not the target's source is all `train`.

    Attributes:
        digest: of what was read, so that a changed file is a changed run.
        counts: of the reading.
        labels: every possible answer, where the source itself knows them.
        tasks: questions that it brings for the suite.
    """

    name: str
    train: tuple[Example, ...] = ()
    dev: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    ood: tuple[Example, ...] = ()
    digest: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    tasks: tuple[ChoiceTask, ...] = ()

    def split_counts(self) -> dict[str, int]:
        """Rows per part, for the page."""
        parts = {"train": self.train, "dev": self.dev, "test": self.test, "ood": self.ood}
        return {name: len(rows) for name, rows in parts.items() if rows}


def read_sources(recipe: Recipe, folder: Path | None) -> dict[str, Source]:
    """Every source but the generated ones, which need the base model.

    Args:
        recipe: its `data`, `split` and `proof.ood`.
        folder: of the recipe's file; relative paths are read from there.

    Raises:
        DataError: a file or a row of it cannot be used, or the shifted source has answers of its own
            (E-DATA-SHIFT-LABELS).
    """
    trained = {name for stage in recipe.stages for name in stage.sources()}
    target = getattr(recipe.proof.target, "data", None) if recipe.proof and recipe.proof.target else None
    found: dict[str, Source] = {}
    for name, settings in recipe.data.items():
        if isinstance(settings, Generated):
            continue
        if isinstance(settings, Embedded):
            found[name] = _embedded(name, settings)
            continue
        if isinstance(settings, InventedFacts):
            found[name] = _facts(name, settings)
            continue
        reading = read_examples(settings, name, folder=folder)
        counts = dict(reading.counts)
        if name == target and name in trained:
            parts = _split(reading.examples, recipe)
            found[name] = replace(parts, name=name, digest=reading.digest, counts=counts)
        elif name == target:
            found[name] = Source(name, test=reading.examples, digest=reading.digest, counts=counts)
        else:
            found[name] = Source(name, train=reading.examples, digest=reading.digest, counts=counts)
        found[name] = _subset(found[name], settings, recipe.seed)
    if recipe.proof is not None and recipe.proof.ood is not None and target in found:
        found[target] = _with_shifted(found[target], found[recipe.proof.ood], recipe.proof.target)
    return found


def _with_shifted(task: Source, other: Source, target: Any) -> Source:
    """The target's source with all rows of another one as its out-of-distribution rows, beside those it has."""
    rows = [row for part in (other.train, other.dev, other.test, other.ood) for row in part]
    if getattr(target, "metric", None) in LABELLED:
        refuse_new_labels([*task.train, *task.dev, *task.test], rows, key="proof.ood")
    own = tuple(replace(row, id=f"{other.name}/{row.id}", source=task.name) for row in rows)
    return replace(task, ood=(*task.ood, *own), digest=digest_of([task.digest, other.digest]))


def refuse_new_labels(known: Sequence[Example], shifted: Sequence[Example], *, key: str) -> None:
    """Raises E-DATA-SHIFT-LABELS when rows out of distribution have answers that the task's own rows do not."""
    strange = sorted({row.target for row in shifted} - {row.target for row in known})
    if strange:
        raise DataError(
            f"the rows out of distribution have answers that the task does not: {', '.join(strange[:5])}.",
            code="E-DATA-SHIFT-LABELS",
            where={"key": key},
            why="The same labels are ranked on both sides; a label that the task never shows cannot be right.",
            fix="Give both the same label words.",
        )


def _subset(source: Source, settings: Format, seed: int) -> Source:
    """With the share of its training rows that the recipe wants, counted."""
    share = getattr(settings, "subset", 1.0)
    kept = tuple(row for row in source.train if within(row, share, seed))
    if source.train and not kept:
        raise DataError(
            f"a subset of {share:g} leaves none of {counted(len(source.train), 'row')}.", code="E-DATA-SUBSET",
            where={"key": f"data.{source.name}.subset"}, fix="Raise it.",
        )  # fmt: skip
    outside = len(source.train) - len(kept)
    counts = {**source.counts, "outside the subset": outside} if outside else source.counts
    return replace(source, train=kept, counts=counts)


def _split(examples: tuple[Example, ...], recipe: Recipe) -> Source:
    shares = {"dev": recipe.split.dev, "test": recipe.split.test}
    parts = split(examples, {name: share for name, share in shares.items() if share > 0}, recipe.seed)
    rows = {name: tuple(examples[index] for index in parts.get(name, ())) for name in ("train", "dev", "test", "ood")}
    return Source("", rows["train"], rows["dev"], rows["test"], rows["ood"])


def _embedded(name: str, settings: Embedded) -> Source:
    from keeptune.pocket.task import build_task

    task = build_task(settings.seed, settings.train, settings.dev, settings.test)
    made = {"train": task.train, "dev": task.dev, "test": task.test, "ood": task.ood}
    parts: dict[str, Any] = {
        part: tuple(replace(example, source=name) for example in rows) for part, rows in made.items()
    }
    digest = task.digest()
    if settings.worse:
        parts = {part: tuple(_with_another(example, task.labels) for example in rows) for part, rows in parts.items()}
        digest = digest_of([digest, "worse"])
    total = sum(len(rows) for rows in parts.values())
    return Source(name, **parts, digest=digest, counts={"read": total, "kept": total}, labels=task.labels)


def _with_another(example: Example, labels: Sequence[str]) -> Example:
    """The row with another label as its worse answer."""
    others = [label for label in labels if label != example.target]
    return replace(example, rejected=Random(f"worse/{example.id}").choice(others))


def _facts(name: str, settings: InventedFacts) -> Source:
    from keeptune.pocket.facts import ANSWERS, build_facts

    facts = build_facts(settings.seed, settings.count, settings.documents)
    parts: dict[str, Any] = {
        part: tuple(replace(row, source=name) for row in rows)
        for part, rows in (("train", facts.train), ("test", facts.test), ("ood", facts.ood))
    }
    counts = {"read": len(facts.train), "kept": len(facts.train)}
    return Source(name, **parts, digest=facts.digest(), counts=counts, labels=ANSWERS, tasks=facts.tasks)


def data_digest(sources: dict[str, Source]) -> str:
    """One digest over all sources, for the exactness set."""
    return digest_of({name: source.digest for name, source in sorted(sources.items())})
