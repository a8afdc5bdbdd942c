"""Which kernels serve the tensors at hand: those in C of a processor (`native`), those in Triton of a GPU (`gpu`).

Both are new code on every machine, so they prove themselves first (`kernel_trial`). What fails, for whatever reason,
leaves the work to torch's operators.
"""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor

from keeptune.engine.kernel_contract import Kernels, ProcessorKernels, of_processor
from keeptune.engine.kernel_trial import agree
from keeptune.engine.native import kernels as native
from keeptune.engine.native.calls import settle
from keeptune.engine.native.library import SWITCH

__all__ = ["all_there", "kernels_of", "multiplying", "serving", "settle"]


def serving(*tensors: Tensor) -> Kernels | None:
    """The kernels, if there are any and they read these tensors; the caller runs torch's operators otherwise.

    Those read what kernels gave, so there none waits any longer.
    """
    dtype, device = tensors[0].dtype, tensors[0].device
    alike = all(x.dtype == dtype and x.device == device and x.is_contiguous() for x in tensors)
    found = kernels_of(device, dtype) if alike else None
    if found is None:
        settle()
    return found


def multiplying(*tensors: Tensor) -> ProcessorKernels | None:
    """Those that serve, if their products are the fastest here; for training, for their bits are their own."""
    own = of_processor(serving(*tensors))
    return own if own is not None and own.multiplies else None


def kernels_of(device: torch.device, dtype: torch.dtype) -> Kernels | None:
    """The kernels of a device that read `dtype`; they are compiled, and tried, if they never were."""
    if device.type == "cpu":
        return native.compiled(dtype)
    # Triton runs where torch would make a tensor.
    if device.type == "cuda" and device.index == torch.cuda.current_device():
        return _of_gpu(device, dtype)
    return None


def all_there(device: torch.device) -> bool:
    """Whether a device has kernels for each dtype in which models train."""
    return all(kernels_of(device, dtype) is not None for dtype in (torch.bfloat16, torch.float32))


@functools.cache
def _of_gpu(device: torch.device, dtype: torch.dtype) -> Kernels | None:
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        from keeptune.engine.gpu import kernels as gpu

        found = gpu.Kernels()
        return found if dtype in gpu.READ and agree(found, dtype, device) else None
    except Exception:  # no Triton, no compiler for its launchers, a GPU that it does not know: each its own error
        return None
