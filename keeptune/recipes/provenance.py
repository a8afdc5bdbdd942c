"""Where a result comes from: what must stay equal at resume, and what another person needs to repeat it."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from keeptune.core.files import read_json
from keeptune.core.run import Run
from keeptune.core.shape import ModelShape
from keeptune.evaluations.target import Target
from keeptune.methods import cost
from keeptune.recipes.material import Material
from keeptune.stages.train import Train

if TYPE_CHECKING:
    from keeptune.data.suite import Suite
    from keeptune.models.load import Loaded
    from keeptune.recipes.recipe import Recipe
    from keeptune.recipes.weights_dtype import WeightsDtype

PACKAGES = ("keeptune", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")


def exactness_of(recipe: Recipe, material: Material, loaded: Loaded) -> dict[str, Any]:
    """What a resumed run must share with the run that it resumes; the stages keep their own, finer set."""
    stages = [stage.exactness() if isinstance(stage, Train) else stage.to_dict() for stage in recipe.stages]
    proof = recipe.proof.to_dict() if recipe.proof else None
    return {
        "seed": recipe.seed,
        "model": {**recipe.model.to_dict(), "fingerprint": loaded.fingerprint},
        "data": {name: source.digest for name, source in sorted(material.sources.items())},
        "too_long": recipe.too_long,
        "template": recipe.template,
        "stages": stages,
        "guard": recipe.guard.to_dict() if recipe.guard else None,
        "margins": proof["margins"] if proof else None,
        "versions": {name: version(name) for name in ("keeptune", "torch", "transformers")},
    }


def manifest_of(
    recipe: Recipe, material: Material, loaded: Loaded, dtype: WeightsDtype, command: str
) -> dict[str, Any]:
    """For `manifest.json`."""
    return {
        "name": recipe.name,
        "command": command,
        "recipe_digest": recipe.digest(),
        "model": recipe.model.name,
        "model_fingerprint": loaded.fingerprint,
        **dtype.to_dict(),
        "device": str(loaded.model.device),
        "data": {name: source.digest for name, source in sorted(material.sources.items())},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in PACKAGES},
    }


def test_seen_in(recipe: Recipe) -> list[str]:
    """The stages that measure the target's test rows before the proof does: whoever chooses by that has selected."""
    return [
        stage.label
        for stage in recipe.stages
        for evaluation in getattr(stage, "evaluations", [])
        if isinstance(evaluation, Target) and evaluation.split == "test"
    ]


def provenance_of(run: Run, suite: Suite | None) -> dict[str, Any]:
    """What the certificate carries of the manifest, the suite, and what training has seen of what was measured."""
    data: dict[str, Any] = read_json(run.folder / "data.json")
    asked = {"suite": None if suite is None else suite.stamp(), "contamination": data.get("contamination")}
    return {**read_json(run.folder / "manifest.json"), **asked}


def trained_parameters(recipe: Recipe, loaded: Loaded) -> tuple[int, float]:
    """Trained parameters of all train stages together, in closed form, and their share of the base."""
    shape = ModelShape.from_config(loaded.model.config.to_dict())
    count = sum(cost(stage.methods, shape).trainable_parameters for stage in recipe.stages if isinstance(stage, Train))
    return count, count / shape.parameters()
