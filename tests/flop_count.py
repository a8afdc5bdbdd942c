"""Counts the floating-point operations of every matrix product that runs, whoever calls it.

It sits below autograd, so products inside autograd functions and in backward passes are counted, in-place ones too.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# name: positions of the two factors among the arguments
PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "addmm_": (1, 2), "baddbmm": (1, 2), "baddbmm_": (1, 2)}
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"


class FlopCount(TorchDispatchMode):
    """Inside it, `total` grows by 2 m k n with each product of (m, k) and (k, n).

    Fused attention counts as the products that it stands for: two forward, five backward (one of them again).
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.by_name: dict[str, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._overloadpacket.__name__
        flops = 0
        if name in PRODUCTS:
            left, right = (args[position] for position in PRODUCTS[name])
            flops = 2 * left.numel() * right.shape[-1]
        elif name == ATTENTION:
            flops = 2 * scores(args[0], args[1])
        elif name == ATTENTION + "_backward":
            flops = 5 * scores(args[1], args[2])
        self.total += flops
        self.by_name[name] = self.by_name.get(name, 0) + flops
        return result


def scores(query: torch.Tensor, key: torch.Tensor) -> int:
    """Of one product of queries and keys, (N, H, L, K) each."""
    return 2 * query.numel() * key.shape[2]
