"""Where positions are a table that ends, virtual tokens and prefixes leave fewer of them to a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keeptune.core.checkpoint import serving
from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape

if TYPE_CHECKING:
    from keeptune.recipes.recipe import Recipe


def positions_taken(recipe: Recipe, config: Mapping[str, Any], tokenizer: Any) -> dict[str, int]:
    """By source, the most positions that adapters take of its rows; nothing where no position is the last.

    A source that a stage uses counts what serves it there, and the target what serves it in the end as well.

    Args:
        recipe: whose stages add the adapters.
        config: of the base, as in its `config.json`.
        tokenizer: of the base, which counts the words of templates.
    """
    shape = ModelShape.from_config(config)
    if not shape.positions:
        return {}
    target = getattr(recipe.proof.target, "data", None) if recipe.proof and recipe.proof.target else None
    task = {target} if target else set(recipe.trained)
    taken: dict[str, int] = {}
    scopes: list[tuple[str, str]] = []
    found: dict[str, int] = {}

    def look(names: set[str], on_task: set[str]) -> None:
        for name in names:
            served = serving(scopes, name, task=name in on_task)
            found[name] = max(found.get(name, 0), sum(taken[adapter] for adapter in served))

    for number, stage in enumerate(recipe.stages):
        name, names = str(number), set(stage.sources())
        taken[name] = stage.takes(shape, tokenizer)
        scopes.append((name, getattr(stage, "scope", "always")))
        task |= {made for made, origin in stage.made_from().items() if origin in task}
        look(names, (names & task) or names)
    look({target} if target else set(), task)
    return found


def left_for_text(longest: int, taken: int) -> int:
    """What is left of the longest row.

    Raises:
        PlanError: nothing (E-METHOD-LENGTH).
    """
    if taken and taken >= longest:
        raise PlanError(
            f"the recipe's {taken:,} virtual tokens leave no position for the text: this model has {longest:,}.",
            code="E-METHOD-LENGTH", fix="Use a shorter prompt or prefix, or a model with a longer context.",
        )  # fmt: skip
    return longest - taken
