"""Small images as numbers, each with a label: a handwritten digit, a spectrogram."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from keeptune.core.example import Example, Message
from keeptune.core.image import image_of
from keeptune.data.fields import required_text
from keeptune.data.formats import FileFormat, guessable, identity, licence
from keeptune.data.place import Place

TOPS = (1, 16, 255)
"""Usual largest levels: shares, scikit-learn's digits, bytes."""


class Images(FileFormat):
    """`{"image": [[0, 12, ...], ...], "label": "7"}`: rows of pixels or of `[red, green, blue]`, from 0 to `top`."""

    image: str = Field("image", description="column of the pixels: a list of rows")
    label: str = Field("label", description="column of the label")
    top: float = Field(255, gt=0, description="the largest value that a pixel may have; 0 is the smallest")

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """One user turn that carries the image, and the label as the answer."""
        if self.image not in row:
            raise place.missing(row, self.image, "image")
        answer = required_text(row, self.label, place, setting="label", part="answer")
        try:
            image = image_of(row[self.image], self.top)
        except ValueError as error:
            raise place.error(
                f"'{self.image}' {error}.",
                code="E-DATA-IMAGE",
                key=self.image,
                fix=f"An image is a list of equally long rows of numbers from 0 to {self.top:g}; `top` sets it.",
            ) from None
        turns = (Message("user", str(image), image.to_dict()), Message("assistant", answer))
        return Example(identity(row, place), turns, licence=licence(row), line=place.line)

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """Sure by the two usual names."""
        return 1.0 if _is_rows(row.get("image")) and guessable(row.get("label")) else 0.0

    @classmethod
    def settings_for(cls, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`top`: the smallest of 1, 16 and 255 that no pixel of these rows passes; columns have their usual names."""
        levels = [level for row in rows for level in _levels(row.get("image"))]
        found = next((top for top in TOPS if max(levels, default=255) <= top), None)
        return {} if found in (None, 255) else {"top": found}


def _levels(value: Any) -> Iterator[float]:
    """The numbers of a nested list."""
    if isinstance(value, list):
        for inner in value:
            yield from _levels(inner)
    elif isinstance(value, (int, float)):
        yield value


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)
