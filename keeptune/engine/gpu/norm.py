"""The root-mean-square norm x = w h r, r = (mean(h^2) + eps)^-1/2, and dh = r (w g - h r^2 mean(w g h)).

One program takes one row, which its registers hold. Sums are float32; values round where transformers' module rounds.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def value(input, weight, output, epsilon, width, BLOCK: tl.constexpr):
    """H (rows, width) and w (width) to x (rows, width)."""
    place = tl.arange(0, BLOCK)
    inside = place < width
    start = tl.program_id(0).to(tl.int64) * width
    h = tl.load(input + start + place, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    r = 1.0 / tl.sqrt(tl.sum(h * h, axis=0) / width + epsilon)
    narrow = output.dtype.element_ty
    x = (h * r).to(narrow).to(tl.float32) * w
    tl.store(output + start + place, x.to(narrow), mask=inside)


@triton.jit
def back(
    gradient,
    input,
    weight,
    onto,
    output,
    slope,
    epsilon,
    width,
    AGAIN: tl.constexpr,
    ONTO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """G and h (rows, width), w (width) to dh, where ONTO says so added to something, and where AGAIN does to x too."""
    place = tl.arange(0, BLOCK)
    inside = place < width
    start = tl.program_id(0).to(tl.int64) * width
    g = tl.load(gradient + start + place, mask=inside, other=0.0).to(tl.float32)
    h = tl.load(input + start + place, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    r = 1.0 / tl.sqrt(tl.sum(h * h, axis=0) / width + epsilon)
    narrow = slope.dtype.element_ty
    if AGAIN:
        x = (h * r).to(narrow).to(tl.float32) * w
        tl.store(output + start + place, x.to(narrow), mask=inside)
    g = g * w
    along = -tl.sum(g * h, axis=0) * r * r * r / width
    change = g * r + h * along
    if ONTO:
        change += tl.load(onto + start + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(slope + start + place, change.to(narrow), mask=inside)
