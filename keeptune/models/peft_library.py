"""The one file that imports PEFT: its layers, built around maps of a model that itself stays as it is.

PEFT replaces modules. Here it replaces those of a scaffold: bare modules with the model's paths, whose leaves share the
model's parameters. What comes back are PEFT's own layers, which the engine runs beside the base.
"""

from __future__ import annotations

import copy
import enum
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from keeptune.core.errors import PlanError, did_you_mean

ELSEWHERE: Mapping[str, str] = {
    "lora": "keeptune has it: use `lora` or `dora`",
    "adalora": "keeptune has it: use `adalora`",
    "ia3": "keeptune has it: use `ia3`",
    "ln_tuning": "keeptune has it: use `norm`",
    "prompt_tuning": "keeptune has it: use `prompt`",
    "p_tuning": "keeptune has it: use `p_tuning`",
    "prefix_tuning": "keeptune has it: use `prefix`",
    "cpt": "PEFT gives a whole batch one prompt, and rows cannot differ: use `prompt`",
    "multitask_prompt_tuning": "PEFT gives a whole batch one prompt, and rows cannot differ: use `prompt`",
    "cartridge": "it fills the cache of a whole batch, and rows cannot differ: use `prefix`",
    "adaption_prompt": "it replaces whole attention modules: use `prefix` with `gate: true`",
    "trainable_tokens": "it replaces the embedding: use `lora` with `embedding: true`",
    "xlora": "it runs the model twice, over adapters that it reads itself: use a list of methods",
    "poly": "it needs the number of a task beside every row: use one adapter per task and `rows`",
    "shadow": "it runs a second network beside the model: use `parallel`",
    "adamss": "it needs a call of its own after every step: use `adalora`",
}
"""Types of PEFT that do not sit on a linear map alone, or that keeptune has itself, with what to use."""

OURS = (
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "task_type",
    "peft_type", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version",
    "fan_in_fan_out",
)  # fmt: skip
"""Settings that are not to be given: they follow from the model, or place the adapter, which `targets` does."""


@dataclass(frozen=True)
class Built:
    """PEFT's layers around some maps.

    Attributes:
        owner: PEFT's model of the scaffold, which knows how its type is stored.
        layers: path to PEFT's layer; its base layer is no submodule of it.
    """

    owner: Any
    layers: dict[str, nn.Module]

    def tensors(self) -> dict[str, Tensor]:
        """What PEFT would save, by its names."""
        with _calm():
            found: dict[str, Tensor] = peft.get_peft_model_state_dict(self.owner)
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what PEFT saved."""
        with _calm():
            peft.set_peft_model_state_dict(self.owner, dict(tensors))

    def config(self) -> dict[str, Any]:
        """What `adapter_config.json` holds."""
        plain = self.owner.peft_config["default"].to_dict()
        return {**{key: _plain(value) for key, value in plain.items()}, "inference_mode": True}


def types() -> list[str]:
    """The types of PEFT that can be borrowed."""
    names = (str(getattr(kind, "value", kind)).lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
    return sorted(name for name in names if name not in ELSEWHERE)


def settings_of_type(kind: str) -> list[str]:
    """The settings that a type has, `OURS` left out.

    Raises:
        PlanError: PEFT has no such type, or it cannot be borrowed (E-METHOD-PEFT).
    """
    if kind in ELSEWHERE:
        what, _, fix = ELSEWHERE[kind].partition(": ")
        raise _refusal(f"PEFT's type '{kind}' is not taken from PEFT: {what}.", fix=f"{fix[:1].upper()}{fix[1:]}.")
    if kind not in types():
        raise _refusal(f"PEFT has no type '{kind}'.", fix=did_you_mean(kind, types()))
    return [name for name in _config_class(kind).__dataclass_fields__ if name not in OURS]


def build(maps: Mapping[str, nn.Module], kind: str, settings: Mapping[str, Any], seed: int) -> Built:
    """PEFT's layers of a type around `maps` (path to linear map), with initial values from `seed`.

    Raises:
        PlanError: PEFT refuses the settings, or puts something elsewhere than around the maps (E-METHOD-PEFT).
    """
    known = settings_of_type(kind)
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise _refusal(f"PEFT's type '{kind}' has no setting '{unknown[0]}'.", fix=did_you_mean(unknown[0], known))
    leaves = {path: _without_hooks(module) for path, module in maps.items()}
    base = [parameter for leaf in leaves.values() for parameter in leaf.parameters()]
    needed, before = [p.requires_grad for p in base], [(p._version, p.data_ptr()) for p in base]
    scaffold, owner = _scaffold(leaves), None
    try:
        with _calm(), torch.random.fork_rng():
            torch.manual_seed(seed)
            owner = peft.get_peft_model(scaffold, _config(kind, settings, leaves))
        trained = {id(p) for p in owner.parameters() if p.requires_grad}
    except Exception as error:
        raise _refusal(f"PEFT's type '{kind}' refuses: {str(error).strip().partition(chr(10))[0]}") from error
    finally:
        for parameter, flag in zip(base, needed, strict=True):
            parameter.requires_grad_(flag)
    layers = {path: scaffold.get_submodule(path) for path in maps}
    for path, layer in layers.items():
        if not isinstance(layer, BaseTunerLayer):
            raise _refusal(f"PEFT's type '{kind}' leaves '{path}' out.", fix="Name other targets.")
        del layer._modules["base_layer"]
        layer.__dict__["base_layer"] = leaves[path]
    inside = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    if trained - inside or before != [(p._version, p.data_ptr()) for p in base]:
        raise _refusal(
            f"with these settings PEFT's type '{kind}' trains or changes the base itself.",
            fix="Leave out settings such as `bias`; use `bitfit` or `freeze` for the base's own weights.",
        )
    return Built(owner, layers)


def opened(model: PreTrainedModel, folder: Path) -> nn.Module:
    """The model with an adapter folder on it, as PEFT itself opens it; the model is PEFT's from then on.

    Raises:
        PlanError: PEFT cannot read the folder (E-METHOD-PEFT).
    """
    try:
        with _calm():
            wrapped: nn.Module = peft.PeftModel.from_pretrained(model, folder).eval()
    except Exception as error:
        raise _refusal(f"PEFT does not read the folder: {str(error).strip().partition(chr(10))[0]}") from error
    return wrapped


def fold(layer: Any) -> None:
    """Puts a layer's change into the weights that it stands around.

    Raises:
        PlanError: PEFT cannot, for this type (E-ADAPTER-MERGE).
    """
    try:
        with _calm():
            layer.merge(safe_merge=True)
    except Exception as error:
        raise PlanError(
            f"PEFT cannot merge it: {str(error).strip().partition(chr(10))[0]}",
            code="E-ADAPTER-MERGE",
            fix="Keep it as an adapter.",
        ) from error


def _config_class(kind: str) -> Any:
    return next(
        cls for name, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items() if str(getattr(name, "value", name)).lower() == kind
    )


def _config(kind: str, settings: Mapping[str, Any], leaves: Mapping[str, nn.Module]) -> Any:
    cls, extra = _config_class(kind), {}
    if "fan_in_fan_out" in cls.__dataclass_fields__:
        extra["fan_in_fan_out"] = any(isinstance(leaf, Conv1D) for leaf in leaves.values())
    return cls(target_modules=list(leaves), **extra, **settings)


def _without_hooks(module: nn.Module) -> nn.Module:
    """The same module, its parameters shared, but without the hooks through which the engine runs it."""
    leaf = copy.copy(module)
    hooks = [name for name, value in vars(module).items() if "hooks" in name and isinstance(value, dict)]
    leaf.__dict__.update({name: OrderedDict() for name in hooks})
    return leaf


def _scaffold(leaves: Mapping[str, nn.Module]) -> nn.Module:
    root = nn.Module()
    root.is_gradient_checkpointing = False  # type: ignore[assignment]
    for path, leaf in leaves.items():
        *parents, last = path.split(".")
        inside = root
        for name in parents:
            if name not in inside._modules:
                inside.add_module(name, nn.Module())
            inside = inside.get_submodule(name)
        inside.add_module(last, leaf)
    return root


@contextmanager
def _calm() -> Iterator[None]:
    """Without PEFT's warnings: what matters of them is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value


def _refusal(what: str, fix: str = "") -> PlanError:
    return PlanError(what, code="E-METHOD-PEFT", where={"key": "method"}, fix=fix)
