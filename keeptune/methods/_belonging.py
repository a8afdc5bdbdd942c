"""Which base an adapter belongs to: what its folder says of it, and whether a model is that one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from keeptune.core.errors import ModelError
from keeptune.models.fingerprint import fingerprint, shape_digest
from keeptune.models.quantize import quantization_of


def base_record(model: PreTrainedModel) -> dict[str, Any]:
    """What a folder says of the base: names, digests of shapes, weights, tokenizer and template, and its options.

    Tokenizer and template are known of a model that `keeptune.load` gave; of another one they stay null.
    """
    loaded = getattr(model, "loaded", None)
    return {
        "name": getattr(loaded, "name", None),
        "revision": getattr(loaded, "revision", None),
        "family": model.config.model_type,
        "shape": shape_digest(model),
        "fingerprint": fingerprint(model),
        "tokenizer": getattr(loaded, "tokenizer_digest", None),
        "template": getattr(loaded, "template_digest", None),
        "sliding_window": getattr(model.config, "sliding_window", None),
        "quantize": quantization_of(model),
    }


def check_base(model: PreTrainedModel, base: Mapping[str, Any], folder: Path) -> None:
    """Refuses an adapter of another base. What its folder does not say is not asked.

    Raises:
        ModelError: E-ADAPTER-BASE, with what is different.
    """
    now = base_record(model)

    def differs(key: str) -> bool:
        return base.get(key) is not None and now[key] is not None and base[key] != now[key]

    whose = f"the adapter belongs to another base ('{base.get('name')}')"
    force = "or force it"
    if "quantize" in base and base["quantize"] != now["quantize"]:
        before = base["quantize"]
        raise _refusal(
            folder,
            f"the adapter was trained on a base with quantize: {before or 'null'}; this one has "
            f"{now['quantize'] or 'null'}.",
            "The weights differ by the rounding to 4 bits, and the adapter made up for the rounding of its own base.",
            f"Load the base with quantize={before!r}; {force}, at the risk of somewhat worse outputs.",
        )
    if differs("shape"):
        why = "Its parameters have other names or shapes than this model's."
        raise _refusal(folder, f"{whose}.", why, "Load that base; forcing works only where the adapter's own maps fit.")
    if differs("fingerprint"):
        why = "The shapes are the same, but it was trained against other weights."
        raise _refusal(folder, f"{whose}.", why, f"Load that base; {force}, at the risk of meaningless outputs.")
    if differs("tokenizer"):
        why = "The weights are the same, but the tokens of a text are others."
        fix = f"Use the tokenizer that it was trained with; {force}, at the risk of meaningless outputs."
        raise _refusal(folder, "the adapter was trained with another tokenizer.", why, fix)
    if differs("template"):
        why = "Weights and tokenizer are the same, but conversations are written in another way."
        fix = f"Use the chat template that it was trained with; {force}, at the risk of worse answers in conversations."
        raise _refusal(folder, "the adapter was trained with another chat template.", why, fix)
    _check_weights(model, base, folder)


def check_window(model: PreTrainedModel, settings: Mapping[str, Any], base: Mapping[str, Any], folder: Path) -> None:
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


def _check_weights(model: PreTrainedModel, base: Mapping[str, Any], folder: Path) -> None:
    """Refuses an adapter of PEFT's that brings along a matrix of its base which is not this model's."""
    own = dict(model.named_modules())
    for path, tensor in base.get("weights", {}).items():
        weight: Any = getattr(own.get(path), "weight", None)
        if weight is None or not torch.equal(weight.detach().to(tensor), tensor.to(weight.device)):
            raise _refusal(
                folder,
                f"the folder holds '{path}' of its base, and this model's is another one.",
                "",
                "Load the base that it was trained on; or force it, which leaves this model's as it is.",
            )


def _refusal(folder: Path, what: str, why: str, fix: str) -> ModelError:
    return ModelError(what, code="E-ADAPTER-BASE", where={"file": folder}, why=why, fix=fix)
