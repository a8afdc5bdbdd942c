"""The header of a safetensors file, checked before a byte of it is trusted.

The file is: 8 bytes little-endian N; N bytes of JSON, tensor name to dtype, shape and [begin, end); the data. A cut,
overlapping or lying header is found here, by arithmetic alone, before anything of its claimed size is allocated.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from keeptune.core.errors import ModelError

HEADER_LIMIT = 100 * 2**20
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the file.

    Raises:
        ModelError: the file is cut, or its header contradicts itself or the file's size (E-MODEL-WEIGHTS).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT):
            raise _broken(path, f"its header claims {length} bytes, the file has {size}")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise _broken(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _broken(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    reached = 0
    for begin, end, name in spans:
        if begin != reached:
            raise _broken(path, f"the bytes of '{name}' do not begin where those before it end")
        reached = end
    if reached != size - 8 - length:
        raise _broken(path, f"its tensors need {reached} bytes, the file holds {size - 8 - length}")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """(begin, end, name) of one tensor, whose shape and dtype must need just that many bytes."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if (
            dtype in BITS and all(type(side) is int and side >= 0 for side in shape) and 0 <= begin <= end
        ):
            if math.prod(shape) * BITS[dtype] != (end - begin) * 8:
                raise _broken(path, f"'{name}' is {dtype} of shape {shape}, but has {end - begin} bytes")
            return begin, end, name
        case _:
            raise _broken(path, f"its entry '{name}' has no valid dtype, shape and offsets")


def _broken(path: Path, how: str) -> ModelError:
    return ModelError(
        f"the weights are cut or damaged: {how}.",
        code="E-MODEL-WEIGHTS",
        where={"file": path},
        fix="Copy or download the file again.",
    )
