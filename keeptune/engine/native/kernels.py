"""The kernels of a processor as functions of tensors.

All tensors are of one dtype, bfloat16 or float32, and lie densely in a processor's memory, but for what is said to be
otherwise; results are new. Whatever is added up is float32.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from ctypes import CDLL
from dataclasses import dataclass

import torch
from torch import Tensor

from keeptune.engine.kernel_contract import Back
from keeptune.engine.kernel_trial import agree
from keeptune.engine.native import products
from keeptune.engine.native.calls import call, together
from keeptune.engine.native.library import loaded

WIDEST = 16
"""Numbers in the widest register of any processor; narrower ones divide it."""
RANKS = 256
"""Of `low_rank.c`."""
ALONE = 2**14
"""Numbers below which one thread is faster than several."""
READ = {torch.bfloat16: (), torch.float32: ("-DFLOAT32",)}
"""What they read, and what tells the compiler so."""


@functools.cache
def compiled(dtype: torch.dtype) -> Kernels | None:
    """The kernels that read `dtype`; they are compiled, and tried against their formulas, if they never were."""
    if dtype not in READ:
        return None
    found = loaded(lambda library: agree(Kernels(library, dtype), dtype), READ[dtype])
    return None if found is None else Kernels(found, dtype)


@dataclass(frozen=True)
class Kernels:
    """The compiled functions.

    Attributes:
        library: that holds them.
        dtype: of what they read and write.
    """

    library: CDLL
    dtype: torch.dtype

    def norm(self, input: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """The norm w h r with r = (mean(h^2) + eps)^-1/2, of h (..., D) and w (D,)."""
        value, width = torch.empty_like(input), input.shape[-1]
        sizes = input.numel() // width, width
        call(self.library, "norm", (input, weight, value), epsilon, *sizes, _threads(input))
        return value

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
        """Of `norm`.

        Args:
            gradient: in x, (..., D).
            input: h, (..., D).
            weight: w, (D,).
            epsilon: eps.
            again: whether x is wanted.
            onto: what the gradient in h is added to, (..., D).
        """
        width = input.shape[-1]
        value, d_input = torch.empty_like(input) if again else None, torch.empty_like(input)
        sizes, places = (input.numel() // width, width), (gradient, input, weight, onto, value, d_input)
        call(self.library, "norm_back", places, epsilon, *sizes, _threads(input))
        return Back(value, (d_input,))

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """The gated unit t sigmoid(t) u; gate t and up u have one shape."""
        value = torch.empty_like(gate)
        call(self.library, "gated", (gate, up, value), gate.numel(), _threads(gate))
        return value

    def gated_back(self, gradient: Tensor, gate: Tensor, up: Tensor, *, again: bool = True) -> Back:
        """Of `gated`; gradient, gate t and up u have one shape."""
        value = torch.empty_like(gate) if again else None
        slopes = torch.empty_like(gate), torch.empty_like(up)
        call(self.library, "gated_back", (gradient, gate, up, value, *slopes), gate.numel(), _threads(gate))
        return Back(value, slopes)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
        """Heads (T, H, K) turned by angles: cos and sin (T, 1, K / 2), which are dense in the last dimension alone."""
        rows, heads, width = x.shape
        turned = torch.empty_like(x)
        sign, sizes = -1.0 if back else 1.0, (rows, heads, width // 2)
        call(self.library, "rotate", (x, cos, sin, turned), cos.stride(0), sign, *sizes, _threads(x))
        return turned

    def attends(self, width: int) -> bool:
        """Whether `attention` and its gradient take heads of this width K."""
        return width % WIDEST == 0

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, offsets: tuple[Tensor, Tensor], scale: float
    ) -> tuple[Tensor, Tensor]:
        """softmax(c q k') v over the past of each row, and log sum_j exp(c q k_j'), float32, (T, H).

        Arguments and errors as `attention_back`.
        """
        output, log_sums = torch.empty_like(query), torch.empty(query.shape[:2], dtype=torch.float32)
        sizes = len(offsets[0]) - 1, query.shape[1], key.shape[1], query.shape[2]
        places = query, key, value, output, log_sums, *offsets
        call(self.library, "attention", places, *sizes, scale, _threads(query))
        return output, log_sums

    def attention_back(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        gradient: Tensor,
        log_sums: Tensor,
        offsets: tuple[Tensor, Tensor],
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients in q, k and v of softmax(c q k') v over the past of each row.

        A row's queries are the last of its tokens; it has as many keys or more, and each query sees those before.

        Args:
            query: (T, H, K).
            key: (T', G, K).
            value: (T', G, K).
            gradient: in the output, (T, H, K).
            log_sums: log sum_j exp(c q k_j'), float32, (T, H).
            offsets: of the rows in T and in T', int64, (rows + 1,) each.
            scale: c.

        Raises:
            MemoryError: no room for a row in float32.
        """
        found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        sizes = len(offsets[0]) - 1, query.shape[1], key.shape[1], query.shape[2]
        places = query, key, value, gradient, log_sums, *found, *offsets
        call(self.library, "attention_back", places, *sizes, scale, _threads(query))
        return found

    def next_token(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Losses w (log sum_v e^z_v - z_y), (N,) in float32; the gradient in z takes the place of the logits z.

        Args:
            logits: z, (N, V).
            targets: y, int64, (N,).
            weights: w, float32, (N,), or None for ones.

        Raises:
            MemoryError: no room for a row in float32.
        """
        losses = torch.empty(len(targets), dtype=torch.float32)
        call(self.library, "next_token", (logits, targets, weights, losses), *logits.shape, _threads(logits))
        return losses

    def updates(self, rank: int) -> bool:
        """Whether `low_rank` takes factors of this rank."""
        return rank <= RANKS

    def low_rank(self, x: Tensor, h: Tensor, A: Tensor, B: Tensor, scale: Tensor, sets: Tensor) -> Tensor:
        """The sum h + B (s A x) of each row, with factors of its own; sums are float32, rounded once.

        Args:
            x: (N, in).
            h: (N, out).
            A: (n, r, in).
            B: (n, r, out).
            scale: s, float32, (n, r).
            sets: which of the n each row has, int64, (N,); -1: none, and h as it is.
        """
        found = torch.empty_like(h)
        sizes = len(x), x.shape[1], h.shape[1], A.shape[1]
        call(self.library, "low_rank", (x, h, A, B, scale, sets, found), *sizes, _threads(h))
        return found

    def together(self) -> AbstractContextManager[None]:
        """Inside, kernels wait, and run at its end: nothing but a kernel may read what one of them gives before."""
        return together()

    @functools.cached_property
    def multiplies(self) -> bool:
        """Whether `summed` is the fastest product here."""
        return products.serves(self.library)

    def summed(
        self,
        *pairs: tuple[Tensor, Tensor],
        onto: Tensor | None = None,
        into: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """The sum f (d + sum_s a_s b_s), (M, N), rounded once.

        Args:
            pairs: a_s, (M, R_s), and b_s, (R_s, N), either of which may be a transposed view; at most `MOST_SUMMED`.
                Bfloat16 is multiplied in twos: of an a and of a transposed b whose R_s is odd, a copy is made.
            onto: d, (M, N) or (N,), dense in the last dimension.
            into: (M, N) to overwrite, dense in the last dimension. In float32 nothing is rounded, and it may be a
                transposed view.
            scale: f.

        Raises:
            MemoryError: no room for a copy of the part of the b_s that is being multiplied.
        """
        a, b = pairs[0]
        into = a.new_empty(a.shape[0], b.shape[1]) if into is None else into
        products.summed(self.library, pairs, onto, into, scale, _threads(b))
        return into


def _threads(of: Tensor) -> int:
    return torch.get_num_threads() if of.numel() >= ALONE else 1
