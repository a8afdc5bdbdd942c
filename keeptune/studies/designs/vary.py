"""One side of the mixture shrinks and the other stays whole: what does each domain lose by it?"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field

from keeptune.studies._points import Point, named, sampled
from keeptune.studies.designs import Design, Ground, Table, trends

Share = Annotated[float, Field(gt=0, le=1)]


class Vary(Design):
    """Every stage draws from a share of the rows of `sources`; epochs stay, so that fewer rows are fewer steps."""

    sources: list[str] = Field(default=[], description="the side that shrinks; unset: the target's source")
    shares: list[Share] = Field([1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0], min_length=2, max_length=12)

    def points(self, ground: Ground) -> list[Point]:
        """One for each share."""
        sources = named(ground.recipe, self.sources or [ground.target], key="design.sources")
        return [
            Point(f"share-{share:.6f}", {"share": share}, sampled(ground.recipe, dict.fromkeys(sources, share)))
            for share in sorted(set(self.shares))
        ]

    def read(self, ground: Ground, table: Table) -> dict[str, Any]:
        """The slope of every domain over doublings of the rows, and what each share gains over the one below it."""
        own = table.own()
        gains = [
            {
                "domain": one.data, "share": table.points[place].at["share"], "than": table.points[below].at["share"],
                **table.cells[one.data].gain(place, below).to_dict(),
            }
            for one in table.domains
            for below, place in pairwise(own)
        ]  # fmt: skip
        return {"trends": trends(table, "share", "doubling of the varied rows"), "gains": gains}
