"""Cross-entropy of the next token: loss = w (log sum_v e^z_v - z_y), dz_v = w (p_v - [v = y]), p = softmax(z).

One program takes one row and goes through it twice: for the largest logit and the sum, then for the gradient. The sum
leaves the target out, so that the gradient there, -w sum_(v != y) p_v, loses nothing when p_y is near 1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def next_token(logits, targets, weights, losses, vocabulary, WEIGHED: tl.constexpr, BLOCK: tl.constexpr):
    """Z (rows, vocabulary), where dz takes its place; y (rows); w (rows), read where WEIGHED; losses (rows)."""
    row = tl.program_id(0).to(tl.int64)
    z = logits + row * vocabulary
    y = tl.load(targets + row)
    gold = tl.load(z + y).to(tl.float32)
    place = tl.arange(0, BLOCK)
    top = gold
    others = 0.0
    for start in range(0, vocabulary, BLOCK):
        v = start + place
        each = tl.load(z + v, mask=(v < vocabulary) & (v != y), other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(each, axis=0))
        others = others * tl.exp(top - higher) + tl.sum(tl.exp(each - higher), axis=0)
        top = higher
    mass = others + tl.exp(gold - top)
    w = tl.load(weights + row) if WEIGHED else 1.0
    tl.store(losses + row, w * (top - gold + tl.log(mass)))
    tl.debug_barrier()  # no thread may write before all have read
    for start in range(0, vocabulary, BLOCK):
        v = start + place
        each = tl.load(z + v, mask=v < vocabulary, other=-float("inf")).to(tl.float32)
        share = tl.where(v == y, -others, tl.exp(each - top)) * (w / mass)
        tl.store(z + v, share.to(logits.dtype.element_ty), mask=v < vocabulary)
