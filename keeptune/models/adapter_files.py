"""Adapter folders: PEFT's files where PEFT has the kind, our own otherwise. Files know no methods.

    PEFT's layout    adapter_config.json, adapter_model.safetensors, and keeptune.json, which PEFT does not look at
    our layout       adapter.json, adapter.safetensors

`keeptune.json` and `adapter.json` hold {schema, settings, base}: the settings as they were given and the base that the
adapter belongs to. A folder without `keeptune.json` was written by PEFT; its base is known by name only.

Names of tensors, in memory, behind a module's path: `.lora_A` and `.lora_B` for the settings `lora` (of its embedding
`.lora_embedding_A` and `.lora_embedding_B`), with `.lora_magnitude_vector` for `dora` and `.lora_E` for `adalora`;
`.ia3_l` for `ia3`. Further `prompt_embeddings` for `prompt`; `<layer>.prefix_keys`, `<layer>.prefix_values` for
`prefix`; anything for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from keeptune.core.errors import ModelError
from keeptune.core.files import atomic_write, delete, make_folder, write_json
from keeptune.models.folder import PICKLES, read_object
from keeptune.models.peft_config import (
    PREFIX,
    adalora_config,
    ia3_config,
    lora_config,
    prefix_config,
    prefix_tensors,
    prompt_config,
    settings_of,
    whose,
)
from keeptune.models.peft_tensors import (
    ON_MODULES,
    PROMPT,
    TENSORS,
    check_modules,
    check_prompt,
    is_plain_prefix,
    modules_of,
    places_of,
    plain_name,
    sits_on_modules,
)
from keeptune.models.safetensors_header import tensor_shapes

SCHEMA = 1
PEFT_CONFIG, SIDE_FILE = "adapter_config.json", "keeptune.json"
OWN_CONFIG, OWN_TENSORS = "adapter.json", "adapter.safetensors"
BASE_WEIGHT = ".base_layer.weight"
"""Behind the name of an embedding's own matrix, which PEFT writes beside its update."""


def write_adapter(
    folder: Path,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    base: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
) -> None:
    """Writes an adapter, in PEFT's layout when PEFT would read exactly the same function from it.

    Args:
        folder: made if it is not there.
        settings: plain data with `name`; for `lora` and `dora` with the resolved numbers `rank` and `alpha`.
        tensors: see the top of this file.
        base: the base's `name`, `revision`, `family` and `fingerprint`; for a prefix its `sliding_window` too.
        config: PEFT's own, of tensors that have PEFT's names.
    """
    make_folder(folder)
    record = {"schema": SCHEMA, "settings": dict(settings), "base": dict(base)}
    if config is not None:
        renamed = dict(tensors)
        plain = {SIDE_FILE: record, PEFT_CONFIG: {**config, **whose(base)}}
    elif sits_on_modules(settings, tensors):
        behind = ON_MODULES[settings["name"]]
        renamed = {f"{PREFIX}{name}{behind[name.rpartition('.')[2]]}": tensor for name, tensor in tensors.items()}
        if settings["name"] == "ia3":
            meant = ia3_config({name.rpartition(".")[0]: tensor for name, tensor in tensors.items()}, base)
        elif settings["name"] == "adalora":
            ranks = {module: len(tensors[f"{module}.lora_E"]) for module in modules_of(tensors)}
            meant = adalora_config(settings, ranks, base)
        else:
            meant = lora_config(settings, modules_of(tensors), base)
        plain = {SIDE_FILE: record, PEFT_CONFIG: meant}
    elif settings.get("name") == "prompt" and set(tensors) == {PROMPT}:
        renamed = dict(tensors)
        plain = {SIDE_FILE: record, PEFT_CONFIG: prompt_config(tensors[PROMPT], base)}
    elif is_plain_prefix(settings, base):
        sides = list(tensors.values())
        renamed = {PROMPT: torch.stack(sides, dim=1).flatten(1)}
        plain = {SIDE_FILE: record, PEFT_CONFIG: prefix_config(sides[0], len(sides) // 2, base)}
    else:
        renamed = dict(tensors)
        plain = {OWN_CONFIG: record}
    for stale in (PEFT_CONFIG, TENSORS, SIDE_FILE, OWN_CONFIG, OWN_TENSORS):
        delete(folder / stale)
    _write_tensors(folder / (OWN_TENSORS if OWN_CONFIG in plain else TENSORS), renamed)
    for file, content in plain.items():
        write_json(folder / file, content)


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Reads an adapter folder that keeptune or PEFT wrote.

    Returns:
        settings, tensors and base as `write_adapter` takes them. From PEFT's own files the settings are what they mean,
        `targets` the full module paths, and the base has its `name` and `revision` only; and as `weights`, by module
        path, what PEFT wrote of the base itself.

    Raises:
        ModelError: E-ADAPTER-MISSING, E-ADAPTER-CONFIG, E-ADAPTER-SCHEMA, E-ADAPTER-UNSAFE, E-ADAPTER-UNSUPPORTED,
            E-ADAPTER-WEIGHTS, E-MODEL-PICKLE, E-MODEL-WEIGHTS.
    """
    if (folder / OWN_CONFIG).exists():
        record = _record(folder / OWN_CONFIG)
        return record["settings"], _read_tensors(folder / OWN_TENSORS), record["base"]
    if not (folder / PEFT_CONFIG).exists():
        raise ModelError(
            "this is not the folder of an adapter." if folder.is_dir() else "there is no such adapter folder.",
            code="E-ADAPTER-MISSING",
            where={"file": folder},
            fix=f"An adapter folder holds {PEFT_CONFIG} or {OWN_CONFIG}.",
        )
    config = read_object(folder / PEFT_CONFIG, "E-ADAPTER-CONFIG")
    settings = settings_of(config, folder / PEFT_CONFIG)
    tensors = _read_tensors(folder / TENSORS)
    weights = {name: tensors.pop(name) for name in list(tensors) if name.endswith(BASE_WEIGHT)}
    if settings["name"] in ON_MODULES:
        tensors = {plain_name(name, settings["name"], folder): tensor for name, tensor in tensors.items()}
        check_modules(tensors, settings, folder)
        settings |= places_of(settings["name"], tensors)
    elif settings["name"] != "peft":
        check_prompt(tensors, settings["length"], folder)
        if settings["name"] == "prefix":
            tensors = prefix_tensors(config, tensors[PROMPT], folder / PEFT_CONFIG)
    base = {"name": _base_name(config), "revision": config.get("revision"), "weights": _by_path(weights)}
    base = {key: value for key, value in base.items() if value}
    if not (folder / SIDE_FILE).exists():
        return settings, tensors, base
    record = _record(folder / SIDE_FILE)
    _check_agreement(record["settings"], settings, folder)
    return record["settings"], tensors, record["base"]


def is_pefts(folder: Path) -> bool:
    """Whether an adapter folder is one that PEFT reads too."""
    return (folder / PEFT_CONFIG).exists()


def _check_agreement(settings: Mapping[str, Any], meant: Mapping[str, Any], folder: Path) -> None:
    """PEFT and keeptune must read the same function from the folder."""
    for key in ("name", "rank", "initial_rank", "alpha", "rslora", "length", "positions"):
        if key in meant and settings.get(key, meant[key]) != meant[key]:
            raise ModelError(
                f"{PEFT_CONFIG} says {key} = {meant[key]!r}, {SIDE_FILE} says {settings[key]!r}.",
                code="E-ADAPTER-CONFIG",
                where={"file": folder, "key": key},
                fix=f"Undo the edit, or delete {SIDE_FILE} to trust {PEFT_CONFIG}.",
            )


def _record(path: Path) -> dict[str, Any]:
    record = read_object(path, "E-ADAPTER-CONFIG")
    if record.get("schema") != SCHEMA:
        raise ModelError(
            f"the adapter was written with schema {record.get('schema')!r}; this version reads {SCHEMA}.",
            code="E-ADAPTER-SCHEMA",
            where={"file": path, "key": "schema"},
            fix="Use the version of keeptune that wrote it.",
        )
    if set(record) != {"schema", "settings", "base"} or not all(
        isinstance(record[key], dict) for key in ("settings", "base")
    ):
        raise ModelError("expected schema, settings and base.", code="E-ADAPTER-CONFIG", where={"file": path})
    return record


def _by_path(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PREFIX).removesuffix(BASE_WEIGHT): tensor for name, tensor in weights.items()}


def _base_name(config: Mapping[str, Any]) -> str | None:
    name = config.get("base_model_name_or_path")
    return name if isinstance(name, str) else None


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    atomic_write(path, safetensors.torch.save(plain, metadata={"format": "pt"}))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        pickles = sorted(file.name for file in path.parent.iterdir() if file.suffix in PICKLES)
        raise ModelError(
            f"the weights are pickles only ({', '.join(pickles)})." if pickles else f"the folder holds no {path.name}.",
            code="E-MODEL-PICKLE" if pickles else "E-ADAPTER-WEIGHTS",
            where={"file": path.parent},
            fix="A pickle can run code when it is read. Save the adapter as safetensors." if pickles else "",
        )
    tensor_shapes(path)
    tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    return tensors
