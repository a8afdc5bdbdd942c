"""k of DMT: how many of the special rows come back in the last stage, and what that costs the general ability."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from keeptune.studies._points import Point, last_train, named, replaying, with_steps
from keeptune.studies.designs import Design, Ground, Table, trends

Share = Annotated[float, Field(gt=0, le=1)]


class DmtK(Design):
    """The last stage draws from a share k of the rows of `sources`; its steps are the same for every k."""

    sources: list[str] = Field(default=[], description="unset: what the last stage samples, else the target's source")
    shares: list[Share] = Field([1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0], min_length=2, max_length=12, description="k")

    def points(self, ground: Ground) -> list[Point]:
        """One for each k."""
        stage: Any = ground.recipe.stages[last_train(ground.recipe)]
        sources = named(ground.recipe, self.sources or list(stage.sample) or [ground.target], key="design.sources")
        equal = with_steps(ground.recipe, ground.steps)
        return [
            Point(f"k-{share:.6f}", {"k": share}, replaying(equal, sources, share))
            for share in sorted(set(self.shares))
        ]

    def read(self, ground: Ground, table: Table) -> dict[str, Any]:
        """The slope of every domain over doublings of k."""
        return {"trends": trends(table, "k", "doubling of k")}
