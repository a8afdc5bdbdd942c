"""In which dtype a device multiplies fastest: what `dtype: auto` means."""

from __future__ import annotations

import torch

from keeptune.core.errors import PlanError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def has_units(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself: AVX512_BF16, AMX, NVIDIA from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device has units for it, else float32.

    A processor without them converts every product and is slower in bfloat16 than in float32.
    """
    return torch.bfloat16 if has_units(device) else torch.float32


def find_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype called `dtype`; `auto` is the fastest one of the device.

    Raises:
        PlanError: there is no such dtype of weights (E-MODEL-DTYPE).
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return fastest_dtype(device)
    if dtype not in DTYPES:
        known = ", ".join(("auto", *DTYPES))
        raise PlanError(f"'{dtype}' is no dtype of weights.", code="E-MODEL-DTYPE", fix=f"Known: {known}.")
    return DTYPES[dtype]
