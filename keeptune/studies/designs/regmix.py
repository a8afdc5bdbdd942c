"""RegMix: many short runs with drawn mixtures, a regression over them, and the mixture that it proposes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from keeptune.core.errors import RecipeError, did_you_mean
from keeptune.stages.train import Train
from keeptune.statistics.mixtures import CANDIDATES, Surface, choose, constant_error, drawn, propose
from keeptune.studies._points import Point, last_train, mixing, with_steps
from keeptune.studies.designs import Design, Ground, Table

RESAMPLES = 200


class RegMix(Design):
    """Mixtures of the last stage's sources, drawn evenly over the simplex; the tokens of all runs are equal.

    A domain's loss is its bits per byte over the base's, or 1 minus its score. Each is fitted by a polynomial in the
    shares (`keeptune.statistics.mixtures`); the proposal has the least weighted sum of predicted losses. It is then
    trained, beside the recipe's own mixture and equal shares: a prediction is no measurement.
    """

    mixtures: int = Field(16, ge=4, le=512, description="runs to fit; at least twice the sources")
    goal: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="weights of the domains' losses; unset: all alike"
    )
    concentration: float = Field(1.0, gt=0, le=100, description="of the drawn mixtures; below 1: nearer to the corners")

    def points(self, ground: Ground) -> list[Point]:
        """The drawn mixtures."""
        sources = self._sources(ground)
        shares = drawn(len(sources), self.mixtures, ground.recipe.seed, self.concentration)
        shares = np.maximum(shares, 1e-3) / np.maximum(shares, 1e-3).sum(axis=1, keepdims=True)
        return [
            _point(ground, f"drawn-{place:03d}", dict(zip(sources, map(float, row), strict=True)))
            for place, row in enumerate(shares)
        ]

    def more(self, ground: Ground, table: Table) -> list[Point]:
        """The proposal, the recipe's own mixture, and equal shares."""
        sources = self._sources(ground)
        found = self._proposed(ground, table, table.own())
        equal = with_steps(ground.recipe, ground.steps)
        return [
            _point(ground, "proposed", dict(zip(sources, map(float, found), strict=True)), beside=True),
            _point(ground, "equal", dict.fromkeys(sources, 1 / len(sources)), beside=True),
            Point("own", {}, equal, beside=True),
        ]

    def read(self, ground: Ground, table: Table) -> dict[str, Any]:
        """The surfaces, the proposal with what it is predicted to give, and its measured loss beside the others'."""
        sources, goal, places = self._sources(ground), self._goal(table), table.own()
        shares = _shares(table, sources, places)
        surfaces = self._surfaces(table, places, sources)
        found = self._proposed(ground, table, places)
        generator = np.random.default_rng(ground.recipe.seed)
        again = [
            self._proposed(ground, table, list(generator.choice(places, size=len(places)))) for _ in range(RESAMPLES)
        ]
        low, high = np.quantile(again, [0.05, 0.95], axis=0)
        checked = {point.label: place for place, point in enumerate(table.points) if point.beside}
        losses = {one: _losses(table, one) for one in goal}
        return {
            "trends": [],
            "surfaces": [
                {
                    "domain": domain, "form": one.form, "coefficients": list(one.coefficients),
                    "held_out": one.held_out, "held_out_of_the_mean": constant_error(losses[domain][places]),
                    "rank_correlation": one.rank_correlation,
                }
                for domain, one in surfaces.items()
            ],
            "proposal": {
                "goal": goal, "mixtures": len(shares),
                "shares": {
                    name: {"value": float(found[i]), "low": float(low[i]), "high": float(high[i])}
                    for i, name in enumerate(sources)
                },
                "predicted": sum(weight * float(surfaces[one].at(found[None])[0]) for one, weight in goal.items()),
                "measured": {
                    label: sum(weight * float(losses[one][place]) for one, weight in goal.items())
                    for label, place in checked.items()
                },
            },
        }  # fmt: skip

    def _sources(self, ground: Ground) -> list[str]:
        stage = ground.recipe.stages[last_train(ground.recipe)]
        assert isinstance(stage, Train), "the place is that of a train stage"
        if not 2 * len(stage.shares) <= self.mixtures or len(stage.shares) < 2:
            raise RecipeError(
                f"{self.mixtures} mixtures say too little about {len(stage.shares)} sources.", code="E-STUDY-MIXTURES",
                where={"key": "design.mixtures"},
                fix="Take a recipe whose last stage has two sources or more, and at least twice as many mixtures.",
            )  # fmt: skip
        return list(stage.shares)

    def _goal(self, table: Table) -> Mapping[str, float]:
        domains = [one.data for one in table.domains]
        stray = next((name for name in self.goal if name not in domains), None)
        if stray is not None:
            raise RecipeError(
                f"no domain is called '{stray}'.", code="E-STUDY-SOURCE", where={"key": "design.goal"},
                fix=did_you_mean(stray, domains),
            )  # fmt: skip
        goal = self.goal or dict.fromkeys(domains, 1.0)
        return {name: weight / sum(goal.values()) for name, weight in goal.items()}

    def _surfaces(self, table: Table, places: list[int], sources: list[str]) -> dict[str, Surface]:
        shares = _shares(table, sources, places)
        return {domain: choose(shares, _losses(table, domain)[places])[0] for domain in self._goal(table)}

    def _proposed(self, ground: Ground, table: Table, places: list[int]) -> NDArray[np.float64]:
        sources, goal = self._sources(ground), self._goal(table)
        surfaces = self._surfaces(table, places, sources)
        candidates = drawn(len(sources), CANDIDATES, ground.recipe.seed + 1)
        return propose([surfaces[one] for one in goal], list(goal.values()), candidates)


def _point(ground: Ground, label: str, weights: Mapping[str, float], *, beside: bool = False) -> Point:
    recipe = mixing(with_steps(ground.recipe, ground.steps), weights)
    return Point(label, dict(weights), recipe, beside)


def _shares(table: Table, sources: list[str], places: list[int]) -> NDArray[np.float64]:
    return np.array([[table.points[place].at[name] for name in sources] for place in places])


def _losses(table: Table, domain: str) -> NDArray[np.float64]:
    """Of every point: bits per byte over the base's, or 1 minus a score of which more is better."""
    scores = table.scores(domain)
    return 1 - scores if table.cells[domain].higher_is_better else scores / table.base[domain]
