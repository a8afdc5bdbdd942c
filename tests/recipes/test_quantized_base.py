"""A base in 4 bits in a recipe: what cannot work on it is refused before anything is loaded."""

from __future__ import annotations

import pytest

from keeptune.core.errors import RecipeError
from keeptune.recipes.recipe import load_recipe


def test_a_method_that_trains_the_base_is_refused_on_a_base_in_4_bits():
    with pytest.raises(RecipeError, match="'full' needs the base's own weights"):
        load_recipe("sft", ["model.quantize=nf4"])


def test_the_qlora_recipe_has_the_papers_settings():
    recipe = load_recipe("qlora")
    stage = recipe.stages[0]
    assert recipe.model.checkpoint.quantize == "nf4"
    assert (stage.method.rank, stage.method.alpha, stage.method.targets) == (64, 16, "all")
    assert (stage.optimizer.lr, stage.optimizer.schedule, stage.optimizer.clip) == (2e-4, "constant", 0.3)
