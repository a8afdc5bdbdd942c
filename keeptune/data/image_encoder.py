"""Rows for image encoders: the pixels of a row, one byte each, in the place of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.core.image import Image
from keeptune.data.encoder import Encoded, Request


class ImageEncoder:
    """Encodes examples that carry an image; the answer is its label."""

    used_chat = None

    @property
    def end_id(self) -> int:
        """Nothing is written, so nothing ends."""
        raise AssertionError("an image encoder writes nothing")

    def encode(self, example: Example) -> Encoded:
        """The levels 0 to 255 of the pixels, channel by channel, row by row.

        Raises:
            DataError: the row carries no image (E-DATA-IMAGE).
        """
        try:
            tokens = tuple(self.prompt(example.prompt))
        except DataError as error:
            where = {"line": example.line, "key": example.source or None}
            raise DataError(error.what, code=error.code, where=where, fix=error.fix) from None
        return Encoded(example.id, example.source, tokens, (False,) * len(tokens), example.target)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The same of a conversation that asks about an image.

        Raises:
            DataError: it carries none (E-DATA-IMAGE).
        """
        found: list[Any] = [image for turn in messages if (image := Image.from_dict(turn.extra)) is not None]
        if len(found) != 1:
            raise DataError(
                f"an image encoder reads one image a row; this row has {len(found)}.",
                code="E-DATA-IMAGE",
                fix="Read the data with `format: images`.",
            )
        return list(found[0].pixels)

    def request(self, messages: Sequence[Message]) -> Request:
        """As `prompt`: an image has no texts."""
        return Request(tuple(self.prompt(messages)))

    def stop_ids(self) -> set[int]:
        """None."""
        return set()
