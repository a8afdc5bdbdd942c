"""Image: pixels as bytes, small enough to travel in a row of data."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEVELS = 255
"""A pixel is one of 256 levels, as in image files."""


@dataclass(frozen=True)
class Image:
    """An image of C channels, H rows and W columns.

    Attributes:
        shape: (C, H, W).
        pixels: C * H * W bytes, channel by channel, row by row.
    """

    shape: tuple[int, int, int]
    pixels: bytes

    def __str__(self) -> str:
        """What stands for it in text: its size and the beginning of its digest."""
        channels, height, width = self.shape
        colours = "" if channels == 1 else f" x {channels}"
        return f"[image {height} x {width}{colours}, {hashlib.sha256(self.pixels).hexdigest()[:12]}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as a message carries it beside its text."""
        return {"image": {"shape": list(self.shape), "pixels": base64.b64encode(self.pixels).decode("ascii")}}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Image | None:
        """The image that a message carries, if it carries one."""
        found = plain.get("image")
        if not isinstance(found, Mapping):
            return None
        channels, height, width = found["shape"]
        return cls((channels, height, width), base64.b64decode(found["pixels"]))


def image_of(rows: Any, top: float) -> Image:
    """Rows of pixels as an image: `round(255 * value / top)`.

    Args:
        rows: H lists of W numbers, or of W lists of C numbers.
        top: what 255 stands for.

    Raises:
        ValueError: the rows are no image; the message goes on from the column's name.

    >>> image_of([[0, 16], [8, 4]], top=16).pixels.hex()
    '00ff8040'
    """
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise ValueError("holds no list of rows of pixels")
    if len({len(row) for row in rows}) > 1:
        raise ValueError("has rows of different lengths")
    pixels = [[pixel if isinstance(pixel, list) else [pixel] for pixel in row] for row in rows]
    channels = {len(pixel) for row in pixels for pixel in row}
    if len(channels) != 1 or 0 in channels:
        raise ValueError("has pixels of different numbers of channels")
    for value in (value for row in pixels for pixel in row for value in pixel):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= top:
            raise ValueError(f"holds {value!r}, which is no number from 0 to {top:g}")
    count = channels.pop()
    levels = (round(LEVELS * pixel[channel] / top) for channel in range(count) for row in pixels for pixel in row)
    return Image((count, len(rows), len(rows[0])), bytes(levels))
