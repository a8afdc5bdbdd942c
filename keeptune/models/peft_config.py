"""PEFT's adapter_config.json as a closed schema: what is understood, what is neutral, what is refused by name.

The file is content from others. It is parsed here by hand, never handed to PEFT, and no name in it is imported.
A key that is not known is accepted only with a value that switches nothing on, as newer versions of PEFT write it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from keeptune.core.errors import ModelError, PlanError
from keeptune.models.families import FAMILIES

PREFIX = "base_model.model."
PLAIN_NAME = re.compile(r"[\w.]+")

# Switch on code, or name a module or a repository.
UNSAFE = ("auto_mapping", "auto_map", "custom_pipelines", "megatron_config", "megatron_core", "tokenizer_kwargs")
# Say where the adapter came from, or choose places: the tensors' own names are the places.
INFORMATIVE = {
    "peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
    "token_dim", "num_attention_heads", "num_layers",
    "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path",
}  # fmt: skip
UNDERSTOOD = {
    "LORA": {
        "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
        "init_lora_weights",
    },
    # When the ranks were allocated; the file holds what that left, and rank_pattern repeats it.
    "ADALORA": {
        "target_r", "init_r", "lora_alpha", "lora_dropout", "tinit", "tfinal", "deltaT", "beta1", "beta2",
        "orth_reg_weight", "total_step", "rank_pattern", "init_lora_weights", "r",
    },
    "IA3": {"feedforward_modules", "init_ia3_weights"},
    "PROMPT_TUNING": {"num_virtual_tokens"},
    # How the virtual tokens were made and where they started; the file holds what they became.
    "P_TUNING": {
        "num_virtual_tokens", "encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers",
        "encoder_dropout",
    },
    "PREFIX_TUNING": {"num_virtual_tokens", "encoder_hidden_size", "prefix_projection", "init_weights"},
}  # fmt: skip
NEUTRAL: Mapping[str, Any] = {
    "bias": "none",
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
    "runtime_config": {"ephemeral_gpu_offload": False},
    "num_transformer_submodules": 1,
}
TASKS = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}
"""PEFT's task type by the kind of the base; its plain wrapper, without a type, takes images."""
# Initialisations that leave the base's weights as they are; the others are meaningless without their edited base.
HARMLESS_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def whose(base: Mapping[str, Any]) -> dict[str, Any]:
    """The base, and the class of PEFT that wraps a model of its kind."""
    family = FAMILIES.get(str(base.get("family")))
    return {
        "task_type": TASKS.get("decoder" if family is None else family.kind),
        "base_model_name_or_path": base.get("name"),
        "revision": base.get("revision"),
    }


def lora_config(settings: Mapping[str, Any], modules: list[str], base: Mapping[str, Any]) -> dict[str, Any]:
    """What PEFT needs to read `modules` with the settings of a `lora` or `dora` (`rank alpha dropout`, patterns)."""
    return {
        "peft_type": "LORA",
        **whose(base),
        "inference_mode": True,
        "r": settings["rank"],
        "lora_alpha": settings["alpha"],
        "lora_dropout": settings.get("dropout", 0.0),
        "use_rslora": settings.get("rslora", False),
        "use_dora": settings["name"] == "dora",
        "rank_pattern": settings.get("rank_pattern") or {},
        "alpha_pattern": settings.get("alpha_pattern") or {},
        "target_modules": modules,
        "fan_in_fan_out": base.get("family") == "gpt2",
        "bias": "none",
    }


def adalora_config(settings: Mapping[str, Any], ranks: Mapping[str, int], base: Mapping[str, Any]) -> dict[str, Any]:
    """What PEFT needs to read triplets, `ranks` of them at each module."""
    start = settings["initial_rank"]
    return {
        "peft_type": "ADALORA",
        **whose(base),
        "inference_mode": True,
        "target_r": settings["rank"],
        "init_r": start,
        "lora_alpha": settings["alpha"],
        "lora_dropout": settings["dropout"],
        "orth_reg_weight": settings["orthogonality"],
        "total_step": 1,
        "rank_pattern": {f"{module}.lora_E": [n < rank for n in range(start)] for module, rank in ranks.items()},
        "target_modules": list(ranks),
        "fan_in_fan_out": base.get("family") == "gpt2",
        "bias": "none",
    }


def ia3_config(vectors: Mapping[str, Tensor], base: Mapping[str, Any]) -> dict[str, Any]:
    """What PEFT needs to read the vector of each module: a column scales an output, a row an input."""
    return {
        "peft_type": "IA3",
        **whose(base),
        "inference_mode": True,
        "target_modules": list(vectors),
        "feedforward_modules": [module for module, vector in vectors.items() if vector.shape[0] == 1],
        "fan_in_fan_out": base.get("family") == "gpt2",
    }


def prompt_config(prompt: Tensor, base: Mapping[str, Any]) -> dict[str, Any]:
    """What PEFT needs to read a soft prompt (virtual tokens, D)."""
    return {
        "peft_type": "PROMPT_TUNING",
        **whose(base),
        "inference_mode": True,
        "num_virtual_tokens": prompt.shape[0],
        "token_dim": prompt.shape[1],
        "num_transformer_submodules": 1,
    }


def prefix_config(keys: Tensor, layers: int, base: Mapping[str, Any]) -> dict[str, Any]:
    """What PEFT needs to read a prefix whose keys are (virtual tokens, key-value heads, head width) in each layer."""
    length, heads, width = keys.shape
    return {
        "peft_type": "PREFIX_TUNING",
        **whose(base),
        "inference_mode": True,
        "num_virtual_tokens": length,
        "token_dim": heads * width,
        "num_attention_heads": heads,
        "num_layers": layers,
        "num_transformer_submodules": 1,
    }


def prefix_tensors(config: Mapping[str, Any], stored: Tensor, file: Path) -> dict[str, Tensor]:
    """PEFT's one tensor (p, 2 L G K), keys before values in each layer, as `<layer>.prefix_keys` (p, G, K) and values.

    Raises:
        ModelError: the numbers of the config and the tensor's shape disagree (E-ADAPTER-WEIGHTS).
    """
    keys = ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
    length, layers, heads, width = (_number(config, key, file, whole=True) for key in keys)
    if tuple(stored.shape) != (length, 2 * layers * width) or width % heads:
        what = f"expected a prefix of {length} x {2 * layers * width}, the file holds {tuple(stored.shape)}."
        raise _refusal(file, "E-ADAPTER-WEIGHTS", "num_virtual_tokens", what)
    split = stored.view(length, layers, 2, heads, width // heads)
    sides = ((layer, side) for layer in range(layers) for side in (0, 1))
    return {f"{layer}.prefix_{('keys', 'values')[side]}": split[:, layer, side] for layer, side in sides}


def settings_of(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The settings that a config of PEFT means: of `lora`, `dora`, `adalora`, `ia3`, `prompt`, `prefix` or `peft`.

    P-tuning's file holds the virtual tokens that its encoder made, so it is a `prompt`.

    Raises:
        ModelError: a key that could run code (E-ADAPTER-UNSAFE), a kind or an option that is not supported
            (E-ADAPTER-UNSUPPORTED), or a value out of its range (E-ADAPTER-CONFIG).
    """
    kind = config.get("peft_type")
    _refuse_unsafe(config, file)
    if kind not in UNDERSTOOD:
        return _borrowed(str(kind), config, file)
    for key, value in config.items():
        if key not in INFORMATIVE | UNDERSTOOD[kind] and not _neutral(key, value):
            raise _refusal(file, "E-ADAPTER-UNSUPPORTED", key, f"the option {key} = {value!r} is not supported.")
    if config.get("task_type") not in (None, *TASKS.values()):
        what = f"the task type '{config['task_type']}' is not supported."
        raise _refusal(
            file,
            "E-ADAPTER-UNSUPPORTED",
            "task_type",
            what,
            f"Those with adapters alone are: {', '.join(TASKS.values())}.",
        )
    if kind == "ADALORA":
        return {
            "name": "adalora",
            "rank": _number(config, "target_r", file, whole=True),
            "initial_rank": _number(config, "init_r", file, whole=True),
            "alpha": _number(config, "lora_alpha", file),
            "dropout": _number({"lora_dropout": 0.0, **config}, "lora_dropout", file, least=0.0),
        }
    if kind == "IA3":
        return {"name": "ia3"}
    if kind != "LORA":
        length = _number(config, "num_virtual_tokens", file, whole=True)
        prefix = {"name": "prefix", "length": length, "hidden": None, "positions": "shift"}
        return prefix if kind == "PREFIX_TUNING" else {"name": "prompt", "length": length}
    start = config.get("init_lora_weights", True)
    if start not in HARMLESS_STARTS:
        what = f"the start '{start}' changed the base's weights, which this folder does not hold."
        raise _refusal(file, "E-ADAPTER-UNSUPPORTED", "init_lora_weights", what)
    return {
        "name": "dora" if config.get("use_dora") else "lora",
        "rank": _number(config, "r", file, whole=True),
        "alpha": _number(config, "lora_alpha", file),
        "dropout": _number({"lora_dropout": 0.0, **config}, "lora_dropout", file, least=0.0),
        "rslora": bool(config.get("use_rslora", False)),
        "rank_pattern": _pattern(config, "rank_pattern", file),
        "alpha_pattern": _pattern(config, "alpha_pattern", file),
    }


def _borrowed(kind: str, config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The settings of a type that PEFT itself runs: those that its config has, on modules that it names plainly."""
    from keeptune.models.peft_library import OURS, settings_of_type

    try:
        known = settings_of_type(kind.lower())
    except PlanError as error:
        what = f"adapters of PEFT's type '{kind}' are not supported."
        raise _refusal(file, "E-ADAPTER-UNSUPPORTED", "peft_type", what, error.fix) from error
    for key, value in config.items():
        if key not in INFORMATIVE | {*known} and not _neutral(key, value):
            raise _refusal(file, "E-ADAPTER-UNSUPPORTED", key, f"the option {key} = {value!r} is not supported.")
    for key in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        if not _neutral(key, config.get(key)):
            raise _refusal(file, "E-ADAPTER-UNSUPPORTED", key, f"the option {key} is not supported for {kind}.")
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not all(PLAIN_NAME.fullmatch(str(target)) for target in targets):
        raise _refusal(file, "E-ADAPTER-UNSUPPORTED", "target_modules", "a list of module names is needed.")
    settings = {key: value for key, value in config.items() if key in known and key not in OURS and value is not None}
    return {"name": "peft", "type": kind.lower(), "settings": settings, "targets": targets}


def _refuse_unsafe(config: Mapping[str, Any], file: Path) -> None:
    for key, value in config.items():
        if (key in UNSAFE or key.startswith("_")) and not _neutral(key, value):
            what = f"the key {key} could make a program load code or files that this folder names."
            raise _refusal(
                file,
                "E-ADAPTER-UNSAFE",
                key,
                what,
                "If you trust the adapter, remove the key; its weights do not need it.",
            )


def _neutral(key: str, value: Any) -> bool:
    """Whether a value switches nothing on."""
    return value is None or value is False or value in ({}, [], "") or (key in NEUTRAL and value == NEUTRAL[key])


def _number(config: Mapping[str, Any], key: str, file: Path, *, least: float = 1e-9, whole: bool = False) -> Any:
    value = config.get(key)
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= 2**20:
        kind = "whole number" if whole else "number"
        raise _refusal(file, "E-ADAPTER-CONFIG", key, f"{key} must be a positive {kind} (given: {value!r}).")
    return value


def _pattern(config: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    """Module name to number. PEFT reads the names as regular expressions; plain names mean the same to both."""
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict) or not all(PLAIN_NAME.fullmatch(name) for name in pattern):
        raise _refusal(file, "E-ADAPTER-UNSUPPORTED", key, f"{key} may hold plain module names only.")
    return {name: _number(pattern, name, file, whole=key == "rank_pattern") for name in pattern}


def _refusal(file: Path, code: str, key: str, what: str, fix: str = "") -> ModelError:
    return ModelError(what, code=code, where={"file": file, "key": key}, fix=fix)
