"""Does the amount of data matter, or the proportion? A full grid of totals and ratios of two sides."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from keeptune.core.errors import RecipeError
from keeptune.studies._points import Point, named, sampled
from keeptune.studies.designs import Design, Ground, Table, trends

Share = Annotated[float, Field(gt=0, le=1)]
Inside = Annotated[float, Field(gt=0, lt=1)]


class TotalRatio(Design):
    """So many rows in all, of which a share from `sources` and the rest from the other side; epochs stay.

    The largest total is what every ratio can be made of; within a side the sources keep their proportion. The recipe
    mixes by rows (`data: {of: [...]}`): with stated shares of the tokens the ratio would not reach the batches.
    """

    sources: list[str] = Field(default=[], description="one side; unset: the target's source")
    totals: list[Share] = Field([1 / 16, 1 / 4, 1.0], min_length=2, max_length=8, description="of the largest total")
    ratios: list[Inside] = Field([0.25, 0.5, 0.75], min_length=2, max_length=8, description="of rows of `sources`")

    def points(self, ground: Ground) -> list[Point]:
        """Every total with every ratio.

        Raises:
            RecipeError: one side has no source (E-STUDY-SOURCE).
        """
        side = named(ground.recipe, self.sources or [ground.target], key="design.sources")
        one = sum(ground.rows[name] for name in side)
        other = sum(count for name, count in ground.rows.items() if name not in side)
        if not other:
            raise RecipeError(
                "a ratio needs two sides, and the recipe trains on one only.", code="E-STUDY-SOURCE",
                where={"key": "design.sources"}, fix="Name fewer sources, or take a recipe with several: multitask.",
            )  # fmt: skip
        ratios = sorted(set(self.ratios))
        largest = min(min(one / ratio, other / (1 - ratio)) for ratio in ratios)
        points = []
        for total in sorted(set(self.totals)):
            for ratio in ratios:
                parts = {True: ratio * total * largest / one, False: (1 - ratio) * total * largest / other}
                shares = {name: min(1.0, parts[name in side]) for name in ground.rows}
                at = {"rows": float(round(total * largest)), "ratio": ratio}
                points.append(Point(f"total-{total:.6f}-{ratio:.4f}", at, sampled(ground.recipe, shares)))
        return points

    def read(self, ground: Ground, table: Table) -> dict[str, Any]:
        """The slope of every domain over doublings of the total, and over the ratio."""
        return {
            "trends": trends(table, "rows", "doubling of all rows")
            + trends(table, "ratio", "ten points more of the rows from the varied side", logarithm=False, step=0.1)
        }
