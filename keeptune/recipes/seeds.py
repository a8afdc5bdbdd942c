"""Seeds: one run speaks for its checkpoint; three or more, each in its own folder, speak for the recipe."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from keeptune.core.events import read_lines
from keeptune.core.files import atomic_write, json_bytes, write_json
from keeptune.core.items import read_scores
from keeptune.recipes.execute import Options, execute
from keeptune.recipes.weights_dtype import with_dtype

if TYPE_CHECKING:
    from keeptune.recipes.recipe import Recipe
    from keeptune.stages._progress import Progress

SHOWN = ("recipe.yaml", "data.json", "manifest.json", "metrics.jsonl", "events.jsonl", "items.jsonl.gz", "scores.json")


def execute_seeds(
    recipe: Recipe, folder: Path, recipe_folder: Path | None, *, options: Options, progress: Progress
) -> dict[str, Any] | None:
    """Runs the recipe once per seed, all in one dtype; the certificate of the whole stands in `folder`."""
    count = recipe.proof.seeds if recipe.proof else 1
    recipe, dtype = with_dtype(recipe, folder)
    progress.say(f"dtype {dtype}")
    if count == 1:
        return execute(recipe, folder, recipe_folder, options=options, progress=progress, dtype=dtype)
    certificates = []
    for seed in range(recipe.seed, recipe.seed + count):
        assert recipe.proof is not None, "several seeds are a setting of the proof"
        single = recipe.model_copy(update={"seed": seed, "proof": recipe.proof.model_copy(update={"seeds": 1})})
        progress.say(f"seed {seed}")
        place = folder / "seeds" / str(seed)
        certificates.append(execute(single, place, recipe_folder, options=options, progress=progress, dtype=dtype))
    proven = [certificate for certificate in certificates if certificate is not None]
    if len(proven) < count:
        return None
    return _together(folder, recipe, proven)


def _together(folder: Path, recipe: Recipe, certificates: list[dict[str, Any]]) -> dict[str, Any]:
    """The certificate of all seeds, and the files that the page shows beside it, taken from the worst seed."""
    from keeptune.report.page import write_certificate
    from keeptune.stages.prove import certify_seeds

    folders = [folder / "seeds" / str(one["seeds"]["values"][0]) for one in certificates]
    measured = [(read_scores(one, "base"), read_scores(one, "adapted")) for one in folders]
    certificate = certify_seeds(certificates, measured if all(all(sides) for sides in measured) else ())
    worst = folder / "seeds" / str(certificate["seeds"]["worst"])
    for name in SHOWN:
        if (worst / name).is_file():
            atomic_write(folder / name, (worst / name).read_bytes())
    atomic_write(folder / "trail.jsonl", b"".join(json_bytes(row) for row in _mean_trail(folder)))
    write_json(folder / "certificate.json", certificate)
    write_certificate(folder, recipe.proof.lang if recipe.proof else "en")
    return certificate


def _mean_trail(folder: Path) -> list[dict[str, Any]]:
    """The mean over seeds of every point of the trail; only points that every seed has."""
    trails = [read_lines(path) for path in sorted((folder / "seeds").glob("*/trail.jsonl"))]
    rows = []
    for points in zip(*trails, strict=False):
        keys = [key for key in points[0] if all(isinstance(point.get(key), (int, float)) for point in points)]
        rows.append({key: fmean(point[key] for point in points) for key in keys})
    return rows
