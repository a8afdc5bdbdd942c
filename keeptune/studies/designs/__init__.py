"""The designs shelf: which mixtures a mixture study trains, and what is read off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeptune.core.spec import Spec
from keeptune.evaluations.target import Target
from keeptune.recipes.recipe import Recipe
from keeptune.statistics.cells import Cells, slope
from keeptune.studies._points import Point


@dataclass(frozen=True)
class Ground:
    """What a design starts from.

    Attributes:
        recipe: of the study.
        rows: training rows of each source that can be learned from.
        steps: of the recipe's train stages, which draw the tokens of every arm.
        target: name of the proof's target.
    """

    recipe: Recipe
    rows: Mapping[str, int]
    steps: Sequence[int]
    target: str


@dataclass(frozen=True)
class Table:
    """What was measured of the points whose every seed was trained to the end.

    Attributes:
        points: in order.
        domains: their evaluations.
        cells: by domain; cell i is point i.
        base: the base's score, by domain.
    """

    points: Sequence[Point]
    domains: Sequence[Target]
    cells: Mapping[str, Cells]
    base: Mapping[str, float]

    def own(self) -> list[int]:
        """Places of the design's points, without the recipes beside it."""
        return [place for place, point in enumerate(self.points) if not point.beside]

    def scores(self, domain: str) -> NDArray[np.float64]:
        """The score of every point, mean over its seeds, as measured."""
        return np.asarray(self.cells[domain].values_BCS[0].mean(axis=1))


class Design(Spec, shelf="keeptune.studies.designs"):
    """Points of the space of mixtures."""

    def points(self, ground: Ground) -> list[Point]:
        """The mixtures to train."""
        raise NotImplementedError

    def more(self, ground: Ground, table: Table) -> list[Point]:
        """Mixtures to train after those were measured."""
        return []

    def read(self, ground: Ground, table: Table) -> dict[str, Any]:
        """What the table says, as plain data: `trends`, and what is the design's own."""
        raise NotImplementedError


def trends(table: Table, by: str, unit: str, *, logarithm: bool = True, step: float = 1.0) -> list[dict[str, Any]]:
    """How every domain's score changes along one coordinate of the design, by least squares.

    Args:
        table: of the design.
        by: the coordinate.
        unit: in words, of one step.
        logarithm: one step is a doubling; else it is `step`.
        step: of the coordinate.
    """
    places = table.own()
    values = [table.points[place].at[by] for place in places]
    if len(set(values)) < 2:
        return []
    figure = slope([float(np.log2(value)) for value in values] if logarithm else [value / step for value in values])
    return [
        {
            "domain": one.data, "by": by, "unit": unit,
            **table.cells[one.data].across(places, figure).to_dict(),
        }
        for one in table.domains
    ]  # fmt: skip
