"""The kernels of a GPU as functions of tensors; all lie densely in its memory, and results are new.

Whatever is added up is float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from keeptune.engine.gpu import gated, next_token, norm, rotation
from keeptune.engine.kernel_contract import Back

READ = (torch.bfloat16, torch.float16, torch.float32)
FLAT = 1024
"""Numbers of a program that goes through memory in no shape."""
LOGITS = 4096
"""Logits of a row that a program looks at together."""


class Kernels:
    """Triton compiles each at its first call, for the dtype and device of its tensors, and keeps it in the cache."""

    def norm(self, input: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """The norm w h r with r = (mean(h^2) + eps)^-1/2, of h (..., D) and w (D,)."""
        output, width = torch.empty_like(input), input.shape[-1]
        grid = (input.numel() // width,)
        norm.value[grid](input, weight, output, epsilon, width, **_row(width))
        return output

    def norm_back(
        self,
        gradient: Tensor,
        input: Tensor,
        weight: Tensor,
        epsilon: float,
        *,
        again: bool = True,
        onto: Tensor | None = None,
    ) -> Back:
        """The gradient of `norm` in h, added `onto` something, and where it is wanted `again` its value: (..., D)."""
        slope, width = torch.empty_like(input), input.shape[-1]
        output = torch.empty_like(input) if again else None
        places = gradient, input, weight, gradient if onto is None else onto, slope if output is None else output, slope
        chosen = {"AGAIN": again, "ONTO": onto is not None}
        norm.back[(input.numel() // width,)](*places, epsilon, width, **chosen, **_row(width))
        return Back(output, (slope,))

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """The gated unit t sigmoid(t) u; gate t and up u have one shape."""
        output = torch.empty_like(gate)
        gated.value[_flat(gate)](gate, up, output, gate.numel(), BLOCK=FLAT)
        return output

    def gated_back(self, gradient: Tensor, gate: Tensor, up: Tensor, *, again: bool = True) -> Back:
        """The gradients of `gated` in t and u, and where it is wanted `again` its value."""
        slopes = torch.empty_like(gate), torch.empty_like(up)
        output = torch.empty_like(gate) if again else None
        places = gradient, gate, up, slopes[0] if output is None else output, *slopes
        gated.back[_flat(gate)](*places, gate.numel(), AGAIN=again, BLOCK=FLAT)
        return Back(output, slopes)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
        """Heads (T, H, K) turned by angles: cos and sin (T, 1, K / 2), which are dense in the last dimension alone."""
        rows, heads, width = x.shape
        turned, half = torch.empty_like(x), width // 2
        blocks = {"HEADS": triton.next_power_of_2(heads), "HALF": triton.next_power_of_2(half)}
        sign = -1.0 if back else 1.0
        # Without this a float32 product is not rounded before it is added.
        apart = {"enable_fp_fusion": False}
        rotation.rotate[(rows,)](x, cos, sin, turned, cos.stride(0), sign, heads, half, **blocks, **apart)
        return turned

    def next_token(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Losses w (log sum_v e^z_v - z_y), (N,) in float32; the gradient in z takes the place of the logits z.

        Args:
            logits: z, (N, V).
            targets: y, int64, (N,).
            weights: w, float32, (N,), or None for ones.
        """
        losses = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
        given = losses if weights is None else weights
        sizes = {"WEIGHED": weights is not None, "BLOCK": min(LOGITS, triton.next_power_of_2(logits.shape[1]))}
        next_token.next_token[(len(targets),)](logits, targets, given, losses, logits.shape[1], num_warps=8, **sizes)
        return losses


def _flat(of: Tensor) -> tuple[int]:
    return (triton.cdiv(of.numel(), FLAT),)


def _row(width: int) -> dict[str, Any]:
    """A row and the warps that share it, some sixteen numbers a thread."""
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}
