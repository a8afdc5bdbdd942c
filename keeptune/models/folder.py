"""A model folder, looked at before anything in it is loaded: each way of being unusable has its own message."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import keeptune.pocket
from keeptune.core.errors import ModelError
from keeptune.models.safetensors_header import tensor_shapes

POCKET = "pocket"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
JSON_LIMIT = 64 * 2**20
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
FOREIGN = {".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".npz"}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
# Keys of a config.json that could fetch or run code, or that transformers keeps for itself; none describes weights.
UNTRUSTED = ("auto_map", "custom_pipelines", "trust_remote_code")


def local_folder(name: str) -> Path | None:
    """The folder that the name of a model stands for on this machine; None for a hub id."""
    if name == POCKET:
        return Path(keeptune.pocket.__file__).parent / "weights"
    path = Path(name).expanduser()
    return path if path.exists() or not HUB_ID.fullmatch(name) else None


def check_folder(folder: Path) -> dict[str, Any]:
    """Checks that `folder` can be loaded, and returns its configuration without the keys that could run code.

    Raises:
        ModelError: what is missing or damaged (E-MODEL-MISSING, E-MODEL-EMPTY, E-MODEL-CONFIG, E-MODEL-ADAPTER,
            E-MODEL-QUANTIZED, E-MODEL-TOKENIZER, E-MODEL-PICKLE, E-MODEL-WEIGHTS).
    """
    if not folder.is_dir():
        raise _error(folder, "there is no such model folder.", "E-MODEL-MISSING", "Check the path, or use 'pocket'.")
    if not any(folder.iterdir()):
        raise _error(folder, "the model folder is empty.", "E-MODEL-EMPTY", "Copy or download the model again.")
    if (folder / "adapter_config.json").exists() or (folder / "adapter.json").exists():
        raise _error(
            folder, "this is the folder of an adapter, not of a model.", "E-MODEL-ADAPTER",
            "Load the base model, then put the adapter on it with keeptune.load_adapter.",
        )  # fmt: skip
    config = _config(folder)
    if "image_size" not in config and not any((folder / name).exists() for name in TOKENIZERS):
        raise _error(
            folder,
            "the folder holds no tokenizer.",
            "E-MODEL-TOKENIZER",
            "Copy tokenizer.json and tokenizer_config.json to it.",
        )
    for file in weight_files(folder):
        tensor_shapes(file)
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, single or sharded.

    Raises:
        ModelError: none, only pickles, or a missing shard.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if index.exists():
        shards = read_object(index, "E-MODEL-WEIGHTS").get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise _error(index, "the index names no shards of this folder.", "E-MODEL-WEIGHTS", "Copy the model again.")
        missing = sorted(name for name in names if not (folder / name).exists())
        if missing:
            raise _error(
                folder,
                f"{len(missing)} of {len(names)} shards are missing: {', '.join(missing[:5])}.",
                "E-MODEL-WEIGHTS",
                "Copy or download the missing files.",
            )
        return [folder / name for name in sorted(names)]
    raise _no_weights(folder)


def read_object(path: Path, code: str) -> dict[str, Any]:
    """A JSON object from a file of the folder.

    Raises:
        ModelError: it is too large, not UTF-8, not JSON or not an object (`code`).
    """

    def refuse(what: str, **place: int) -> ModelError:
        return ModelError(what, code=code, where={"file": path, **place}, fix="Copy or download the file again.")

    try:
        if path.stat().st_size > JSON_LIMIT:
            raise refuse(f"the file is larger than {JSON_LIMIT} bytes.")
        plain = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise refuse("the file is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise refuse(f"the file is not JSON: {error.msg}.", line=error.lineno, column=error.colno) from None
    except (RecursionError, OSError) as error:
        raise refuse(f"the file cannot be read: {type(error).__name__}.") from None
    if not isinstance(plain, dict):
        raise refuse("the file holds no JSON object.")
    return plain


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise _error(
            folder, "the folder holds no config.json.", "E-MODEL-CONFIG", "Point to the folder that holds the model."
        )
    config = read_object(path, "E-MODEL-CONFIG")
    if config.get("quantization_config"):
        raise _error(
            path, "the weights of this folder are already quantised.", "E-MODEL-QUANTIZED",
            "Use the original 16-bit model; quantisation is a setting of loading.",
        )  # fmt: skip
    return {key: value for key, value in config.items() if not _untrusted(key)}


def _untrusted(key: str) -> bool:
    return key.startswith("_") or key in UNTRUSTED or key.endswith("_implementation")


def _no_weights(folder: Path) -> ModelError:
    endings = {path.suffix for path in folder.iterdir()}
    if endings & PICKLES:
        return _error(
            folder, f"the weights are pickles only ({', '.join(sorted(endings & PICKLES))}).", "E-MODEL-PICKLE",
            "A pickle can run code when it is read. Use the safetensors version of this model.",
        )  # fmt: skip
    if endings & FOREIGN:
        found = ", ".join(sorted(endings & FOREIGN))
        return _error(
            folder, f"the weights are in another format ({found}).", "E-MODEL-WEIGHTS", "Use the safetensors version."
        )
    return _error(
        folder, "the folder holds no weights (model.safetensors).", "E-MODEL-WEIGHTS", "Copy the weights to it."
    )


def _error(path: Path, what: str, code: str, fix: str) -> ModelError:
    return ModelError(what, code=code, where={"file": path}, fix=fix)
