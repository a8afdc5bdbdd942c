"""The arms of a comparison: a recipe's stages on the study's model and data, with equal tokens, at a rate and seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keeptune.core.errors import RecipeError, did_you_mean
from keeptune.core.spec import validate
from keeptune.data.formats import Format
from keeptune.data.formats.embedded import Embedded
from keeptune.recipes.recipe import Recipe, load_recipe
from keeptune.stages.train import Train


def token_budget(recipe: Recipe, tokens_per_epoch: int) -> int:
    """Tokens that the recipe's train stages draw: steps times their batch, or epochs over the task."""
    total = 0.0
    for stage in (stage for stage in recipe.stages if isinstance(stage, Train)):
        total += stage.steps * stage.batch_tokens if stage.steps else (stage.epochs or 1) * tokens_per_epoch
    return round(total)


def arm_recipe(study: Recipe, name: str, tokens: int, rate: float, seed: int) -> Recipe:
    """The recipe of one arm.

    Args:
        study: gives model, data, split and proof.
        name: of a recipe, or a recipe's file; gives the stages, and sources that the study's recipe does not have.
        tokens: of all its train stages together, shared out as its epochs are; a stage with `steps` keeps them.
        rate: factor on the learning rate of the last train stage.
        seed: of the arm.

    Raises:
        RecipeError: it names a source that neither has (E-STUDY-SOURCE), or trains nothing (E-STUDY-STAGES).
    """
    arm = load_recipe(name)
    wanted = dict.fromkeys(source for stage in arm.stages for source in stage.sources())
    foreign = [source for source in wanted if source not in study.data and arm.data[source].name != "generated"]
    if foreign:
        raise RecipeError(
            f"the recipe '{name}' trains on '{foreign[0]}', which the study's recipe does not have.",
            code="E-STUDY-SOURCE",
            where={"key": "recipes"},
            fix=did_you_mean(foreign[0], study.data) + " Give the study's recipe a source of that name.",
        )
    places = [place for place, stage in enumerate(arm.stages) if isinstance(stage, Train)]
    if not places:
        raise RecipeError(f"the recipe '{name}' trains nothing.", code="E-STUDY-STAGES", fix="See: keeptune show sft")
    own_task = _same_labels(study.data.get("task"), arm.data.get("task"))
    plain = [stage.to_dict() for stage in arm.stages]
    for place, steps in zip(places, _steps(arm, places, tokens), strict=True):
        plain[place].update(epochs=None, steps=steps)
        if not own_task:
            plain[place]["method"] = _without_labels(plain[place]["method"])
    last = plain[places[-1]]["optimizer"]
    last["lr"] = last["lr"] * rate
    data = {source: study.data.get(source) or arm.data[source] for source in wanted}
    target = getattr(study.proof.target, "data", None) if study.proof else None
    if target and target not in data:
        data[target] = study.data[target]
    made: Recipe = validate(
        Recipe,
        {
            **study.to_dict(),
            "name": arm.name,
            "seed": seed,
            "data": {source: settings.to_dict() for source, settings in data.items()},
            "stages": plain,
            "guard": None,
        },
    )
    return made


def _steps(arm: Recipe, places: Sequence[int], tokens: int) -> list[int]:
    """Steps of each train stage: what fixed stages leave is shared out by epochs."""
    stages = [arm.stages[place] for place in places]
    fixed = sum(stage.steps * stage.batch_tokens for stage in stages if isinstance(stage, Train) and stage.steps)
    epochs = sum(stage.epochs or 1 for stage in stages if isinstance(stage, Train) and not stage.steps)
    steps = []
    for stage in stages:
        assert isinstance(stage, Train), "places are those of train stages"
        own = stage.steps or round(max(0, tokens - fixed) * (stage.epochs or 1) / epochs / stage.batch_tokens)
        steps.append(max(1, own))
    return steps


def _same_labels(one: Format | None, other: Format | None) -> bool:
    """Whether two sources answer with the same words; those of the embedded task are the same at any size."""
    return one == other or (isinstance(one, Embedded) and isinstance(other, Embedded))


def _without_labels(method: Any) -> Any:
    """A prompt that began from another task's labels begins from the vocabulary."""
    if isinstance(method, list):
        return [_without_labels(one) for one in method]
    if isinstance(method, dict) and method.get("init") == "labels":
        return {**method, "init": "vocabulary", "labels": []}
    return method
