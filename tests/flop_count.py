"""Counts the floating-point operations of every matrix product that runs, whoever calls it.

It sits below autograd, so products inside autograd functions and in backward passes are counted, in-place ones too.
"""

from __future__ import annotations

import itertools
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keeptune.engine.native.kernels import Kernels

aten = torch.ops.aten
# name: positions of the two factors among the arguments
PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "addmm_": (1, 2), "baddbmm": (1, 2), "baddbmm_": (1, 2)}
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"


class FlopCount(TorchDispatchMode):
    """Inside it, `total` grows by 2 m k n with each product of (m, k) and (k, n).

    Fused attention counts as the products that it stands for: two forward, five backward (one of them again). Our own
    kernels of attention count as the blocks that they go through, our own products as anybody's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.by_name: dict[str, int] = {}
        self._kernels = [
            self._counting("attention", in_rows),
            self._counting("attention_back", in_blocks),
            self._counting_products("summed"),
        ]

    def __enter__(self):
        for kernel in self._kernels:
            kernel.start()
        return super().__enter__()

    def __exit__(self, *error):
        for kernel in self._kernels:
            kernel.stop()
        return super().__exit__(*error)

    def _counting(self, name, blocks):
        kernel = getattr(Kernels, name)

        def counted(kernels, query, *given):
            offsets = next(each for each in given if isinstance(each, tuple))
            self._add(name, blocks(*(each.tolist() for each in offsets), *query.shape[1:]))
            return kernel(kernels, query, *given)

        return mock.patch.object(Kernels, name, counted)

    def _counting_products(self, name):
        kernel = getattr(Kernels, name)

        def counted(kernels, *pairs, **named):
            self._add(name, sum(2 * a.numel() * b.shape[1] for a, b in pairs))
            return kernel(kernels, *pairs, **named)

        return mock.patch.object(Kernels, name, counted)

    def _add(self, name: str, flops: int) -> None:
        self.total += flops
        self.by_name[name] = self.by_name.get(name, 0) + flops

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
        self._add(name, flops)
        return result


HIGH, TILE, LANES = 6, 48, 16  # of `engine/native/blocks.h`, where registers are widest


def in_rows(offsets: list[int], key_offsets: list[int], heads: int, width: int) -> int:
    """What attention goes through: `attend` of `engine/native/attention.c`, block by block."""
    multiplied = 0
    for length, whole in zip(lengths(offsets), lengths(key_offsets), strict=True):
        for start in range(0, length, HIGH):
            end = whole - length + min(start + HIGH, length)
            multiplied += HIGH * (-(-end // LANES) * LANES + end)
    return 2 * heads * width * multiplied


def in_blocks(offsets: list[int], key_offsets: list[int], heads: int, width: int) -> int:
    """What the kernel goes through: `tile` of `engine/native/attention_back.c`, block by block."""
    multiplied = 0
    for length, whole in zip(lengths(offsets), lengths(key_offsets), strict=True):
        for start in range(0, length, TILE):
            count, first = min(TILE, length - start), whole - length + start
            rows = -(-count // HIGH) * HIGH
            for i in range(0, rows, HIGH):
                seen = min(first + i + HIGH, whole)
                multiplied += HIGH * (2 * -(-seen // LANES) * LANES + seen)
            for j in range(0, first + count, HIGH):
                multiplied += 2 * HIGH * (rows - (max(0, j - first) // HIGH) * HIGH)
    return 2 * heads * width * multiplied


def lengths(offsets: list[int]) -> list[int]:
    return [end - start for start, end in itertools.pairwise(offsets)]


def scores(query: torch.Tensor, key: torch.Tensor) -> int:
    """Of one product of queries and keys, (N, H, L, K) each."""
    return 2 * query.numel() * key.shape[2]
