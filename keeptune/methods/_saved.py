"""Adapters in files: a folder holds the settings of a method, its tensors, and which base they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.counting import counted
from keeptune.core.errors import ModelError, PlanError, RecipeError, did_you_mean
from keeptune.core.spec import validate
from keeptune.engine.adapter import Adapter, fit, tensors_of
from keeptune.engine.book import check_name, require_book
from keeptune.methods import Method, install_methods, place_methods
from keeptune.methods._belonging import base_record, check_base, check_window
from keeptune.models.adapter_files import read_adapter, write_adapter

HYBRID = "hybrid"


def save_adapter(model: PreTrainedModel, name: str, folder: str | Path) -> None:
    """Writes an adapter to a folder, in PEFT's own layout where PEFT has the kind.

    Of one that trains the base's own weights too, what stands beside them is written, such as a head.

    Args:
        model: carries the adapter.
        name: its name on the model.
        folder: made if it is not there.

    Raises:
        PlanError: no such adapter (E-ADAPTER-NAME); or it is the base's own weights alone (E-ADAPTER-SAVE).
    """
    adapter: Adapter = require_book(model, name).adapter(name)
    chosen = [number for number, method in enumerate(adapter.methods) if not method.trains_base]
    if not chosen:
        raise PlanError(
            f"'{name}' trains the base's own weights, which are no adapter.",
            code="E-ADAPTER-SAVE",
            fix="`merge` it, and save the whole model with `model.save_pretrained`.",
        )
    methods: list[Method] = [adapter.methods[number] for number in chosen]
    placed = [adapter.placed[number] for number in chosen]
    parts = [method.saved_settings() for method in methods]
    settings = parts[0] if len(parts) == 1 else {"name": HYBRID, "methods": parts}
    config = methods[0].peft_config(placed[0]) if len(parts) == 1 else None
    write_adapter(Path(folder), settings, tensors_of(placed), base_record(model), config)


def load_adapter(
    model: PreTrainedModel, folder: str | Path, name: str = "default", *, trainable: bool = False, force: bool = False
) -> None:
    """Attaches an adapter that keeptune or PEFT wrote; it serves every row from now on.

    Args:
        model: the base that it belongs to.
        folder: of the adapter.
        name: to attach it under.
        trainable: True opens it for more training.
        force: attach it although its base, tokenizer or template was another one: outputs may then be meaningless.

    Raises:
        ModelError: a folder that cannot be used (E-ADAPTER-*, E-MODEL-PICKLE), or of another base (E-ADAPTER-BASE).
        PlanError: the name is taken (E-ADAPTER-NAME), or the method cannot work on this model.
    """
    folder = Path(folder)
    check_name(model, name)
    settings, tensors, base = read_adapter(folder)
    if not force:
        check_base(model, base, folder)
    check_window(model, settings, base, folder)
    methods = _methods(settings, folder)
    placed = place_methods(model, methods)
    fit(placed, tensors)
    _fill(tensors_of(placed), tensors, folder)
    install_methods(model, methods, placed, name, trainable=trainable)


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
            f"{counted(len(different), 'tensor is', 'tensors are')} missing, unknown or of another shape: {shown}.",
            code="E-ADAPTER-WEIGHTS",
            where={"file": folder},
            fix="The adapter was made for another model; load the base that it names.",
        )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(given[key])
