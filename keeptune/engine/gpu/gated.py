"""SwiGLU: x = a u, a = t s, s = sigmoid(t), and its gradient dt = g u (s + a (1 - s)), du = g a.

A program takes BLOCK numbers, wherever they stand in their rows.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def value(gate, up, output, count, BLOCK: tl.constexpr):
    """T and u (count) to x (count)."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    t = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    narrow = output.dtype.element_ty
    a = (t / (1.0 + tl.exp(-t))).to(narrow).to(tl.float32)
    tl.store(output + place, (a * u).to(narrow), mask=inside)


@triton.jit
def back(gradient, gate, up, output, d_gate, d_up, count, AGAIN: tl.constexpr, BLOCK: tl.constexpr):
    """G, t and u (count) to dt and du, and where AGAIN says so to x as well."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    g = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    t = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    odds = 1.0 + tl.exp(-t)
    s, a = 1.0 / odds, t / odds
    narrow = d_gate.dtype.element_ty
    tl.store(d_gate + place, (g * u * (s + a * (1.0 - s))).to(narrow), mask=inside)
    tl.store(d_up + place, (g * a).to(narrow), mask=inside)
    if AGAIN:
        tl.store(output + place, (a.to(narrow).to(tl.float32) * u).to(narrow), mask=inside)
