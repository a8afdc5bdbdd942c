"""The rotary embedding: (a, b) -> (a c - b s, b c + a s) for the halves a, b of a head; products are rounded first.

One program takes all heads of a token, for they turn by the same angles. A back turn is one by the opposite angle.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rotate(x, cosine, sine, turned, stride, sign, heads, half, HEADS: tl.constexpr, HALF: tl.constexpr):
    """X (rows, heads, 2 half), cosine and sine (rows, half), `stride` apart, to turned, of x's shape."""
    row = tl.program_id(0).to(tl.int64)
    head, pair = tl.arange(0, HEADS), tl.arange(0, HALF)
    inside = pair < half
    c = tl.load(cosine + row * stride + pair, mask=inside, other=0.0).to(tl.float32)[None, :]
    s = sign * tl.load(sine + row * stride + pair, mask=inside, other=0.0).to(tl.float32)[None, :]
    both = (head < heads)[:, None] & inside[None, :]
    left = (row * heads + head)[:, None] * 2 * half + pair[None, :]
    a = tl.load(x + left, mask=both, other=0.0).to(tl.float32)
    b = tl.load(x + left + half, mask=both, other=0.0).to(tl.float32)
    narrow = turned.dtype.element_ty
    ac, bs = (a * c).to(narrow).to(tl.float32), (b * s).to(narrow).to(tl.float32)
    bc, as_ = (b * c).to(narrow).to(tl.float32), (a * s).to(narrow).to(tl.float32)
    tl.store(turned + left, (ac - bs).to(narrow), mask=both)
    tl.store(turned + left + half, (bc + as_).to(narrow), mask=both)
