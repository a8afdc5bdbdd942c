"""What PEFT calls the tensors of an adapter, which adapters it can say, and whether a file holds all of one.

In memory a parameter's name is its module's path and its own name; PEFT puts `base_model.model.` before it and, for
some kinds, `.weight` behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from keeptune.core.errors import ModelError
from keeptune.models.peft_config import PREFIX

TENSORS = "adapter_model.safetensors"
LORA_SIDES, EMBEDDING_SIDES = ("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")
ON_MODULES: Mapping[str, Mapping[str, str]] = {
    "lora": {**dict.fromkeys(LORA_SIDES, ".weight"), **dict.fromkeys(EMBEDDING_SIDES, "")},
    "dora": {**dict.fromkeys(LORA_SIDES, ".weight"), "lora_magnitude_vector": ""},
    "adalora": dict.fromkeys((*LORA_SIDES, "lora_E"), ""),
    "ia3": {"ia3_l": ""},
}
"""The parameters of the kinds that sit on linear maps, and what PEFT puts behind the name of each."""
PROMPT = "prompt_embeddings"


def sits_on_modules(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether PEFT can say the same: patterns must name modules, since PEFT knows no roles."""
    parameters = ON_MODULES.get(str(settings.get("name")), {})
    if not parameters or not all(name.rpartition(".")[2] in parameters for name in tensors):
        return False
    if settings["name"] == "ia3":
        return True
    assert isinstance(settings.get("alpha"), (int, float)), "the settings of a LoRA are written with a resolved alpha"
    patterns = {*(settings.get("rank_pattern") or {}), *(settings.get("alpha_pattern") or {})}
    modules = modules_of(tensors)
    return all(any(module == name or module.endswith(f".{name}") for module in modules) for name in patterns)


def is_plain_prefix(settings: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether PEFT can say the same: it fills the cache, so each layer has a prefix, and a window moves past it."""
    plain = settings.get("name") == "prefix" and settings["positions"] == "shift" and not settings.get("gate")
    return plain and settings.get("layers", "all") == "all" and base.get("sliding_window") is None


def modules_of(tensors: Mapping[str, Tensor]) -> list[str]:
    """The module paths that have parameters, in the order of the tensors."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))


def places_of(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Where an adapter of PEFT's sits, as our settings say it; IA3's vectors of an input are rows."""
    if kind != "ia3":
        embedding = [module for module in modules_of(tensors) if f"{module}.{EMBEDDING_SIDES[0]}" in tensors]
        targets = [module for module in modules_of(tensors) if module not in embedding]
        return {"targets": targets, **({"embedding": True} if embedding else {})}
    inputs = [module for module in modules_of(tensors) if tensors[f"{module}.ia3_l"].shape[0] == 1]
    return {"inputs": inputs, "outputs": [module for module in modules_of(tensors) if module not in inputs]}


def plain_name(name: str, kind: str, folder: Path) -> str:
    """Module path and parameter, from PEFT's name of a tensor.

    Raises:
        ModelError: it is not of a plain adapter of that kind (E-ADAPTER-UNSUPPORTED).
    """
    for parameter, behind in ON_MODULES[kind].items():
        plain = name.removeprefix(PREFIX).removesuffix(behind)
        if name == f"{PREFIX}{plain}{behind}" and plain.endswith(f".{parameter}"):
            return plain
    raise _refusal(folder, f"the tensor '{name}' is not part of a plain {kind}.", "E-ADAPTER-UNSUPPORTED")


def check_modules(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], folder: Path) -> None:
    """Each module has all parameters of its kind; a pair is A (rank, in) and B (out, rank), of the settings' rank."""
    if not tensors:
        raise _refusal(folder, "the adapter holds no tensors.", "E-ADAPTER-WEIGHTS")
    for module in modules_of(tensors):
        embedding = any(f"{module}.{side}" in tensors for side in EMBEDDING_SIDES)
        sides = EMBEDDING_SIDES if embedding else LORA_SIDES
        parameters = sides if settings["name"] == "lora" else ON_MODULES[settings["name"]]
        missing = [parameter for parameter in parameters if f"{module}.{parameter}" not in tensors]
        if missing:
            raise _refusal(folder, f"'{module}' has no {missing[0]}.", "E-ADAPTER-WEIGHTS")
        if settings["name"] == "ia3":
            continue
        if settings["name"] == "adalora":
            rank = len(tensors[f"{module}.lora_E"])
        else:
            named = (rank for name, rank in settings["rank_pattern"].items() if f".{module}".endswith(f".{name}"))
            rank = next(named, settings["rank"])
        shapes = [tuple(tensors[f"{module}.{side}"].shape) for side in sides]
        match shapes:
            case [(below, _), (_, above)] if below == above == rank:
                continue
        raise _refusal(
            folder, f"'{module}' has no pair of {sides[0]} and {sides[1]} of rank {rank}.", "E-ADAPTER-WEIGHTS"
        )


def check_prompt(tensors: Mapping[str, Tensor], length: int, folder: Path) -> None:
    """One tensor of `length` rows.

    Raises:
        ModelError: E-ADAPTER-WEIGHTS.
    """
    shape = tuple(tensors[PROMPT].shape) if set(tensors) == {PROMPT} else ()
    if len(shape) != 2 or shape[0] != length:
        raise _refusal(folder, f"expected one tensor '{PROMPT}' of {length} rows.", "E-ADAPTER-WEIGHTS")


def _refusal(folder: Path, what: str, code: str) -> ModelError:
    return ModelError(what, code=code, where={"file": folder / TENSORS})
