"""Loading a model: a folder, `pocket`, or a hub id that the user typed. Safetensors only, no remote code."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from keeptune.core.errors import ModelError, PlanError
from keeptune.models.anatomy import Anatomy, anatomy_of
from keeptune.models.auto_class import auto_class, spare, unread
from keeptune.models.device import find_device
from keeptune.models.families import family_of
from keeptune.models.fingerprint import fingerprint, template_digest, tokenizer_digest
from keeptune.models.folder import check_folder, local_folder
from keeptune.models.precision import find_dtype
from keeptune.models.quantize import check_kind, put_into_4_bits, quantization_of, widen

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True)
class Loaded:
    """A model with what was learned about it on the way.

    Attributes:
        model: in evaluation mode, its own dropout off.
        tokenizer: with the model's own chat template, if it has one; None of an image encoder.
        name: what the user asked for.
        path: the folder it came from.
        dtype: of the weights.
        anatomy: its named places.
        fingerprint: of its base weights.
        revision: of a hub id, as it was asked for.
        quantize: `nf4` where the linear maps of the blocks are in 4 bits.
    """

    model: PreTrainedModel
    tokenizer: Any
    name: str
    path: Path
    dtype: torch.dtype
    anatomy: Anatomy
    fingerprint: str
    revision: str | None = None
    quantize: str | None = None

    @cached_property
    def tokenizer_digest(self) -> str | None:
        """Tells its tokenizer from another."""
        return tokenizer_digest(self.tokenizer)

    @property
    def template_digest(self) -> str | None:
        """Tells its chat template from another."""
        return template_digest(self.tokenizer)


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    quantize: str | None = None,
) -> Loaded:
    """Loads a model of a known family and its tokenizer: a decoder, an encoder, an encoder-decoder, or a ViT.

    The base's own dropout is switched off for good: training is then the same function as evaluation, the reference
    of a KL term is the model itself with its adapter off, and adapters bring their own dropout.

    Args:
        name: `pocket`, a folder, or a hub id `owner/model`.
        revision: commit, tag or branch of a hub id.
        dtype: of the weights: `auto` (bfloat16 where the device has units for it, else float32), `bfloat16`, `float32`,
            `float16` or a torch dtype.
        device: where to put it; a GPU when there is one, else the CPU.
        quantize: `nf4`: the linear maps of the blocks in 4 bits; embedding, head and norms stay in `dtype`.

    Raises:
        ModelError: the folder or its files cannot be used (E-MODEL-*).
        PlanError: the family is not supported (E-MODEL-FAMILY, E-MODEL-MOE, E-MODEL-ATTENTION), or there is no such
            quantisation (E-MODEL-QUANTIZE).
        MachineError: there is no such device (E-ENV-DEVICE).
        MissingDependency: `quantize` needs bitsandbytes.
    """
    place = find_device(device)
    weights_dtype = find_dtype(dtype, place)
    if quantize is not None:
        check_kind(quantize)
    folder = folder_of(name, revision)
    settings = check_folder(folder)
    image = family_of(settings).kind == "image"
    config = _parsed(folder, settings)
    tokenizer = None if image else _tokenizer(folder, config)
    model = _model(folder, config, weights_dtype)
    if tokenizer is not None:
        _check_vocabulary(folder, model.get_input_embeddings().weight.shape[0], tokenizer)
    _switch_off_dropout(model)
    if quantize is not None:
        put_into_4_bits(model, quantize, place)
    model = model.to(place).eval()
    anatomy, marks = anatomy_of(model), fingerprint(model)
    loaded = Loaded(model, tokenizer, str(name), folder, weights_dtype, anatomy, marks, revision, quantize)
    model.loaded = loaded
    return loaded


def load_pair(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    quantize: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load` as `keeptune.load` shows it: the model and its tokenizer.

    >>> model, tokenizer = load_pair("pocket")  # doctest: +SKIP
    """
    loaded = load(name, revision=revision, dtype=dtype, device=device, quantize=quantize)
    return loaded.model, loaded.tokenizer


def look(name: str | Path, revision: str | None = None) -> tuple[dict[str, Any], Any]:
    """The configuration of a model as plain data, and its tokenizer (None of an image encoder); no weight is read.

    Raises:
        ModelError, PlanError: as `load`.
    """
    folder = folder_of(name, revision)
    settings = check_folder(folder)
    image = family_of(settings).kind == "image"
    config = _parsed(folder, settings)
    if image:
        return config.to_dict(), None
    tokenizer = _tokenizer(folder, config)
    _check_vocabulary(folder, config.vocab_size, tokenizer)
    return config.to_dict(), tokenizer


def loaded_of(model: PreTrainedModel) -> Loaded:
    """What `load` learned about `model`.

    Raises:
        PlanError: the model was not loaded by `load` (E-MODEL-FOREIGN).
    """
    loaded = getattr(model, "loaded", None)
    if not isinstance(loaded, Loaded):
        raise PlanError("this model was not loaded by keeptune.", code="E-MODEL-FOREIGN", fix="Use keeptune.load.")
    return loaded


def widen_loaded(model: PreTrainedModel, weights: Literal["same", "original"] = "same") -> None:
    """Makes a stock 16-bit model of one that `load` put into 4 bits, in place.

    Args:
        model: as `load` gave it, adapters attached or not; one that is not in 4 bits is left as it is.
        weights: `same`: the NF4 weights, written out; `original`: the linear maps are read from the base's files again,
            so the model is not quite the one that an adapter was trained on.

    Raises:
        PlanError: `original`, and the model was not loaded by `load` (E-MODEL-FOREIGN).
        ModelError: the base's files cannot be read any more (E-MODEL-*).
    """
    if quantization_of(model) is None:
        return
    if weights == "same":
        widen(model)
    else:
        source = loaded_of(model)
        place = model.get_input_embeddings().weight.device
        widen(model, load(source.path, dtype=source.dtype, device=place).model)
    if isinstance(getattr(model, "loaded", None), Loaded):
        model.loaded = replace(model.loaded, quantize=None)


def folder_of(name: str | Path, revision: str | None = None) -> Path:
    """The local folder that `name` stands for.

    Raises:
        ModelError: a hub id that cannot be fetched (E-MODEL-MISSING).
    """
    name = str(name)
    here = local_folder(name)
    if here is not None:
        return here
    from huggingface_hub import snapshot_download

    try:
        with _quiet():
            return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:
        raise ModelError(
            f"'{name}' is no folder here, and as a hub id it cannot be fetched ({type(error).__name__}).",
            code="E-MODEL-MISSING",
            fix="Check the path. A hub id needs a network, or an earlier download of the same revision.",
        ) from error


def _parsed(folder: Path, settings: dict[str, Any]) -> Any:
    """The configuration object, checked to describe a model and to keep the rotary settings of the file."""
    wanted = copy.deepcopy(settings.get("rope_parameters") or {})
    try:
        config = AutoConfig.for_model(**settings)
        with _quiet(), torch.device("meta"):
            auto_class(settings).from_config(config)
    except Exception as error:
        raise _bad_config(folder, error) from error
    got = getattr(config, "rope_parameters", None) or {}
    for key, value in wanted.items():
        if got.get(key) != value:
            raise ModelError(
                f"the installed transformers reads {key} = {value} as {got.get(key)}.",
                code="E-MODEL-ROPE",
                where={"file": folder / "config.json", "key": f"rope_parameters.{key}"},
                fix="Use a newer transformers.",
            )
    return config


def _model(folder: Path, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The model with every weight from the files."""
    with _quiet():
        model, found = auto_class(config.to_dict()).from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True,
            trust_remote_code=False, ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    found["unexpected_keys"] = [key for key in found["unexpected_keys"] if not spare(config.to_dict(), key)]
    absent = [key for key in found["missing_keys"] if unread(config.to_dict(), key)]
    found["missing_keys"] = [key for key in found["missing_keys"] if key not in absent]
    _check_complete(folder, found)
    for key in absent:  # not as they were drawn: loaded twice, a model is the same one
        torch.nn.init.zeros_(model.get_parameter(key))
    model.config.architectures = [type(model).__name__]
    return model


def _bad_config(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"no model can be built from this configuration: {_first_line(error)}",
        code="E-MODEL-CONFIG",
        where={"file": folder / "config.json"},
        fix="Copy or download the file again.",
    )


def _tokenizer(folder: Path, config: Any) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"the tokenizer cannot be loaded: {_first_line(error)}",
            code="E-MODEL-TOKENIZER",
            where={"file": folder},
            fix="Copy the tokenizer's files again.",
        ) from error


def _check_complete(folder: Path, found: dict[str, Any]) -> None:
    """Every tensor of the model was in the files, with its shape, and nothing else was."""
    problems = [
        ("are missing", sorted(found["missing_keys"])),
        ("have another shape than the configuration says", sorted(key for key, *_ in found["mismatched_keys"])),
        ("are not part of this architecture", sorted(found["unexpected_keys"])),
    ]
    for what, names in problems:
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise ModelError(
                f"{len(names)} tensors {what}: {shown}.",
                code="E-MODEL-WEIGHTS",
                where={"file": folder},
                fix="The weights and config.json do not belong together; copy both again.",
            )


def _check_vocabulary(folder: Path, rows: int, tokenizer: PreTrainedTokenizerBase) -> None:
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise ModelError(
            f"the tokenizer knows the id {largest} ('{token}'), but the embedding has {rows} rows.",
            code="E-MODEL-VOCABULARY",
            where={"file": folder},
            fix="Use the tokenizer that belongs to this model, or resize the embedding.",
        )


def _switch_off_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or name == "layerdrop"):
                setattr(module, name, 0.0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports: every fault has its own message here."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0][:200]
