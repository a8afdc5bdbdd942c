"""Recipes at the points of a mixture study: shares of rows, proportions of tokens, and steps that stay equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeptune.core.errors import RecipeError, did_you_mean
from keeptune.core.spec import validate
from keeptune.data.mixing import sample_size
from keeptune.recipes.recipe import Recipe
from keeptune.stages.train import Train

if TYPE_CHECKING:
    from keeptune.data.encode import EncodedSet


@dataclass(frozen=True)
class Point:
    """One mixture.

    Attributes:
        label: names its arms.
        at: where it lies in the design: numbers by name.
        recipe: that trains it, with the study's seed.
        beside: whether it is another recipe that the design is held against.
    """

    label: str
    at: Mapping[str, float]
    recipe: Recipe
    beside: bool = False

    def seeded(self, seed: int) -> Recipe:
        """The recipe with another seed."""
        return self.recipe.model_copy(update={"seed": seed})


def train_stages(recipe: Recipe) -> dict[int, Train]:
    """The train stages by their places.

    Raises:
        RecipeError: there is none (E-STUDY-STAGES).
    """
    found = {place: stage for place, stage in enumerate(recipe.stages) if isinstance(stage, Train)}
    if not found:
        raise RecipeError(
            f"the recipe '{recipe.name}' trains nothing.", code="E-STUDY-STAGES", fix="See: keeptune show multitask"
        )
    return found


def last_train(recipe: Recipe) -> int:
    """The place of the last train stage."""
    return max(train_stages(recipe))


def named(recipe: Recipe, sources: Sequence[str], *, key: str) -> list[str]:
    """The sources, if the recipe's stages train on all of them.

    Raises:
        RecipeError: one of them is not trained on (E-STUDY-SOURCE).
    """
    used = list(dict.fromkeys(name for stage in train_stages(recipe).values() for name in stage.shares))
    stray = next((name for name in sources if name not in used), None)
    if stray is not None:
        raise RecipeError(
            f"no stage of the recipe trains on '{stray}'.",
            code="E-STUDY-SOURCE",
            where={"key": key},
            fix=did_you_mean(stray, used),
        )
    return list(sources)


def sampled(recipe: Recipe, shares: Mapping[str, float], places: Sequence[int] | None = None) -> Recipe:
    """The recipe with shares of the rows of some sources, on top of what its stages sample already.

    Args:
        recipe: of the study.
        shares: by source.
        places: of the stages; unset: every train stage.
    """
    plain = recipe.to_dict()
    for place, stage in train_stages(recipe).items():
        if places is None or place in places:
            own = {name: share * stage.sample.get(name, 1.0) for name, share in shares.items() if name in stage.shares}
            plain["stages"][place]["sample"] = {**stage.sample, **own}
    return _made(plain)


def replaying(recipe: Recipe, sources: Sequence[str], share: float) -> Recipe:
    """The recipe whose last stage draws from so large a share of the rows of some sources, and no other."""
    plain = recipe.to_dict()
    last = plain["stages"][last_train(recipe)]
    last["sample"] = {**last["sample"], **dict.fromkeys(sources, share)}
    return _made(plain)


def mixing(recipe: Recipe, weights: Mapping[str, float]) -> Recipe:
    """The recipe whose last stage draws its tokens in these proportions, from all rows."""
    plain = recipe.to_dict()
    plain["stages"][last_train(recipe)].update(data={name: float(one) for name, one in weights.items()}, sample={})
    return _made(plain)


def with_steps(recipe: Recipe, steps: Sequence[int]) -> Recipe:
    """The recipe with fixed steps of its train stages, in order."""
    plain = recipe.to_dict()
    for place, own in zip(train_stages(recipe), steps, strict=True):
        plain["stages"][place].update(epochs=None, steps=own)
    return _made(plain)


def own_steps(recipe: Recipe, train: Mapping[str, EncodedSet]) -> list[int]:
    """The steps that each train stage takes of itself: epochs of its leading source at that source's share.

    Args:
        recipe: of the arm.
        train: encoded rows of every source.
    """
    steps = []
    for stage in train_stages(recipe).values():
        if stage.steps:
            steps.append(stage.steps)
            continue
        shares = stage.fitted(train).shares
        leading = max(shares, key=shares.__getitem__)
        rows = [len(row.tokens) for row in train[leading].rows]
        drawn = sum(rows) / len(rows) * sample_size(len(rows), stage.sample.get(leading, 1.0))
        steps.append(max(1, round((stage.epochs or 1) * drawn / shares[leading] / stage.batch_tokens)))
    return steps


def tokens_of(recipe: Recipe, steps: Sequence[int]) -> int:
    """Tokens that the train stages draw in so many steps."""
    stages = train_stages(recipe).values()
    return sum(own * stage.batch_tokens for own, stage in zip(steps, stages, strict=True))


def scaled(recipe: Recipe, steps: Sequence[int], tokens: int) -> list[int]:
    """The steps, by one factor, such that all stages together draw so many tokens."""
    factor = tokens / tokens_of(recipe, steps)
    return [max(1, round(factor * own)) for own in steps]


def _made(plain: dict[str, Any]) -> Recipe:
    made: Recipe = validate(Recipe, {**plain, "guard": None})
    return made
