"""Adapters in files: a folder holds the settings of a method, its tensors, and which base they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import ModelError, PlanError, RecipeError, did_you_mean
from keeptune.core.spec import validate
from keeptune.engine.adapter import Adapter, fit, tensors_of
from keeptune.engine.book import check_name, require_book
from keeptune.methods import Method, install_methods, place_methods
from keeptune.models.adapter_files import read_adapter, write_adapter
from keeptune.models.fingerprint import fingerprint
from keeptune.models.quantize import quantization_of

HYBRID = "hybrid"


def save_adapter(model: PreTrainedModel, name: str, folder: str | Path) -> None:
    """Writes an adapter to a folder, in PEFT's own layout where PEFT has the kind.

    Args:
        model: carries the adapter.
        name: its name on the model.
        folder: made if it is not there.

    Raises:
        PlanError: no such adapter (E-ADAPTER-NAME); or it is the base's own weights (E-ADAPTER-SAVE).
    """
    adapter: Adapter = require_book(model, name).adapter(name)
    if adapter.trains_base:
        raise PlanError(
            f"'{name}' trains the base's own weights, which are no adapter.",
            code="E-ADAPTER-SAVE",
            fix="`merge` it, and save the whole model with `model.save_pretrained`.",
        )
    parts = [method.saved_settings() for method in adapter.methods if isinstance(method, Method)]
    settings = parts[0] if len(parts) == 1 else {"name": HYBRID, "methods": parts}
    base = {
        "name": getattr(getattr(model, "loaded", None), "name", None),
        "revision": None,
        "family": model.config.model_type,
        "fingerprint": fingerprint(model),
        "sliding_window": getattr(model.config, "sliding_window", None),
        "quantize": quantization_of(model),
    }
    config = adapter.methods[0].peft_config(adapter.placed[0]) if len(parts) == 1 else None
    write_adapter(Path(folder), settings, adapter.tensors(), base, config)


def load_adapter(
    model: PreTrainedModel, folder: str | Path, name: str = "default", *, trainable: bool = False, force: bool = False
) -> None:
    """Attaches an adapter that keeptune or PEFT wrote; it serves every row from now on.

    Args:
        model: the base that it belongs to.
        folder: of the adapter.
        name: to attach it under.
        trainable: True opens it for more training.
        force: attach it although its base has another fingerprint: its outputs may then be meaningless.

    Raises:
        ModelError: a folder that cannot be used (E-ADAPTER-*, E-MODEL-PICKLE), or of another base (E-ADAPTER-BASE).
        PlanError: the name is taken (E-ADAPTER-NAME), or the method cannot work on this model.
    """
    folder = Path(folder)
    check_name(model, name)
    settings, tensors, base = read_adapter(folder)
    expected = base.get("fingerprint")
    if expected is not None and not force and expected != fingerprint(model):
        raise _of_another_base(model, base, folder)
    _check_window(model, settings, base, folder)
    _check_weights(model, base, folder, force)
    methods = _methods(settings, folder)
    placed = place_methods(model, methods)
    fit(placed, tensors)
    _fill(tensors_of(placed), tensors, folder)
    install_methods(model, methods, placed, name, trainable=trainable)


def _of_another_base(model: PreTrainedModel, base: dict[str, Any], folder: Path) -> ModelError:
    """The refusal; a base of the same name that is in 4 bits on one side alone gets its own advice."""
    name, before, now = base.get("name"), base.get("quantize"), quantization_of(model)
    if before == now:
        what, why = f"the adapter belongs to another base ('{name}').", "Its shapes may fit, but it was trained"
        fix = "Load that base; or force it, at the risk of meaningless outputs."
        return ModelError(
            what, code="E-ADAPTER-BASE", where={"file": folder}, why=f"{why} against other weights.", fix=fix
        )
    return ModelError(
        f"the adapter was trained on a base with quantize: {before or 'null'}; this one has {now or 'null'}.",
        code="E-ADAPTER-BASE",
        where={"file": folder},
        why="The weights differ by the rounding to 4 bits, and the adapter made up for the rounding of its own base.",
        fix=f"Load the base with quantize={before!r}; or force it, at the risk of somewhat worse outputs.",
    )


def _check_window(model: PreTrainedModel, settings: dict[str, Any], base: dict[str, Any], folder: Path) -> None:
    """Refuses a prefix that PEFT trained behind a sliding window: there it fell out of sight, here it never does."""
    window = getattr(model.config, "sliding_window", None)
    if settings.get("name") == "prefix" and window is not None and "sliding_window" not in base:
        raise ModelError(
            f"the prefix was trained by PEFT, where this model's window of {window} tokens moves past it.",
            code="E-ADAPTER-UNSUPPORTED",
            where={"file": folder},
            why="In keeptune every token sees the whole prefix, so the outputs would differ.",
            fix="Train the prefix with keeptune.",
        )


def _check_weights(model: PreTrainedModel, base: dict[str, Any], folder: Path, force: bool) -> None:
    """Refuses an adapter of PEFT's that brings along a matrix of its base which is not this model's."""
    own = dict(model.named_modules())
    for path, tensor in base.get("weights", {}).items():
        weight: Any = getattr(own.get(path), "weight", None)
        if not force and (weight is None or not torch.equal(weight.detach().to(tensor), tensor.to(weight.device))):
            raise ModelError(
                f"the folder holds '{path}' of its base, and this model's is another one.",
                code="E-ADAPTER-BASE",
                where={"file": folder},
                fix="Load the base that it was trained on; or force it, which leaves this model's as it is.",
            )


def _methods(settings: dict[str, Any], folder: Path) -> list[Method]:
    """The methods that a folder's settings describe; a file can name members of the shelf only, never a module."""
    parts = settings.get("methods") if settings.get("name") == HYBRID else [settings]
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise ModelError("a hybrid lists its methods.", code="E-ADAPTER-CONFIG", where={"file": folder})
    known = Method.names()
    for part in parts:
        if part.get("name") not in known:
            fix = did_you_mean(str(part.get("name")), known)
            what = f"no method is called '{part.get('name')}'."
            raise ModelError(what, code="E-ADAPTER-CONFIG", where={"file": folder}, fix=fix)
    try:
        return [validate(Method, part) for part in parts]
    except RecipeError as error:
        raise ModelError(str(error), code="E-ADAPTER-CONFIG", where={"file": folder}) from error


def _fill(wanted: dict[str, Tensor], given: dict[str, Tensor], folder: Path) -> None:
    """Copies the tensors of a file into the deltas; names and shapes must be the same."""
    different = sorted(set(wanted) ^ set(given))
    different += sorted(key for key in set(wanted) & set(given) if wanted[key].shape != given[key].shape)
    if different:
        shown = ", ".join(different[:3]) + (", ..." if len(different) > 3 else "")
        raise ModelError(
            f"{len(different)} tensors are missing, unknown or of another shape: {shown}.",
            code="E-ADAPTER-WEIGHTS",
            where={"file": folder},
            fix="The adapter was made for another model; load the base that it names.",
        )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(given[key])
