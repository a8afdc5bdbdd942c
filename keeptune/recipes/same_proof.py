"""What the folder of a proof holds already: an equal proof is shown again, another one is never written over."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from keeptune.core.digest import digest_of
from keeptune.core.errors import RecipeError
from keeptune.core.exactness import Found, listed
from keeptune.core.files import read_json
from keeptune.core.run import Run

PACKAGES = ("keeptune", "torch", "transformers")
KIND = "proof of two models"


def asked_of(
    models: Mapping[str, Any], data: Mapping[str, str], suite: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The exactness set of a proof: everything that its numbers hang on.

    Args:
        models: what decides the answers of each side, as `before` and `after`: files, or the address of an endpoint.
        data: digest of every file that is read, by its name on the page.
        suite: its stamp.
        settings: everything else.
    """
    sides = {side: digest_of(identity)[:12] for side, identity in models.items()}
    files = {name: digest[:12] for name, digest in data.items()}
    versions = {name: version(name) for name in PACKAGES}
    return {"kind": KIND, "models": sides, "data": files, "suite": suite, **settings, "versions": versions}


def shown_again(run: Run, asked: Mapping[str, Any], *, served: bool) -> dict[str, Any] | None:
    """The certificate that an equal proof ended with in this folder; None when it is still to be measured.

    Args:
        run: the folder of the proof.
        asked: `asked_of` it.
        served: the models stand behind endpoints.

    Raises:
        RecipeError: the folder holds another proof or a run, or one of endpoints, behind which another model may
            stand by now (E-RESUME-DIFFERENT).
    """
    run.check_exactness(asked, _another)
    written = run.folder / "certificate.json"
    if not written.exists():
        return None
    if served:
        raise RecipeError(
            "a proof of these endpoints stands here, and nobody can tell whether the same models answer behind them.",
            code="E-RESUME-DIFFERENT", where={"file": str(run.folder)}, why="It would be written over.",
            fix="Choose another --output.",
        )  # fmt: skip
    try:
        certificate: dict[str, Any] = read_json(written)
    except ValueError:  # damaged: its measurements are kept, so that it costs little to write it anew
        return None
    return certificate


def _another(folder: Path, found: Found) -> RecipeError:
    """The error for a folder that holds something else; another kind of run shares no setting that could be listed."""
    kinds = {str(old) for key, old, _ in found if key == "kind"}
    what = "a run of a recipe" if kinds else f"another proof ({listed(found)})"
    return RecipeError(
        f"this folder holds {what}.", code="E-RESUME-DIFFERENT", where={"file": str(folder)},
        why="It would be written over.", fix="Choose another --output.",
    )  # fmt: skip
