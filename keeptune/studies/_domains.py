"""What a mixture is judged by: every domain on rows of its own that no arm trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from keeptune.core.digest import digest_of
from keeptune.core.score import Score
from keeptune.data.split import split
from keeptune.evaluations.target import Metric, Target
from keeptune.recipes.material import Material, encoded
from keeptune.recipes.recipe import Recipe
from keeptune.statistics.cells import Cells
from keeptune.studies import Work


def held_out(work: Work, recipe: Recipe, material: Material, share: float) -> Material:
    """The material with a share of the rows of every source held out, where it has no test rows of its own.

    Which rows is a hash of what they ask, and the study's seed: they are the same in every arm.

    Raises:
        DataError: a source has too few rows (E-DATA-SPLIT).
    """
    loaded, sources, train = work.workshop.shared(recipe.model.checkpoint), {}, dict(material.train)
    for name, source in material.sources.items():
        sources[name] = source
        if source.test:
            continue
        parts = split(source.train, {"test": share}, work.recipe.seed)
        rows = {part: tuple(source.train[index] for index in parts[part]) for part in ("train", "test")}
        digest = digest_of([source.digest, "held out", share, work.recipe.seed])
        sources[name] = replace(source, train=rows["train"], test=rows["test"], digest=digest)
        if name in train:
            train[name] = encoded(recipe, loaded, rows["train"], name)
    return replace(material, sources=sources, train=train)


def domain_targets(recipe: Recipe, domains: Sequence[str], metrics: Mapping[str, Metric]) -> list[Target]:
    """The evaluation of each domain: as the study asks for, as the proof has it, else bits per byte of the answers."""
    target = recipe.proof.target if recipe.proof else None
    found = []
    for name in domains:
        if isinstance(target, Target) and target.data == name and name not in metrics:
            found.append(target)
        else:
            found.append(Target(data=name, metric=metrics.get(name, "bits_per_byte")))
    return found


def cells_of(domain: Target, found: Sequence[Sequence[Sequence[Score]]]) -> Cells:
    """The scores of a domain in every cell and seed.

    Args:
        domain: its evaluation.
        found: of each cell, of each seed, all scores.
    """

    def own(scores: Sequence[Score]) -> Score:
        return next(one for one in scores if (one.task, one.metric) == (domain.data, domain.metric))

    first = own(found[0][0])
    ids = [item.id for item in first.items]
    assert all([i.id for i in own(one).items] == ids for seeds in found for one in seeds), "arms share their items"
    return Cells.of(
        np.array([[[item.score for item in own(one).items] for one in seeds] for seeds in found]),
        [item.size for item in first.items],
        [item.cluster or item.id for item in first.items],
        higher_is_better=first.higher_is_better,
    )
