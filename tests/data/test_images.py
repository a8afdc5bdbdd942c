"""Images in data files: read, refused, and turned into rows."""

from __future__ import annotations

import json

import pytest

from keeptune.core.errors import DataError
from keeptune.core.example import Message
from keeptune.core.image import Image, image_of
from keeptune.data.encode import encoder_of
from keeptune.data.encoder import Encoded
from keeptune.data.formats.images import Images
from keeptune.data.guess import guess_format
from keeptune.data.read import read_examples
from keeptune.data.view import check_view

GREY = {"image": [[0, 16], [8, 4]], "label": "7"}
COLOUR = {"image": [[[0, 1, 2], [3, 4, 5]]], "label": "red"}


def written(tmp_path, *rows):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "rows.jsonl")


def test_pixels_become_levels_channel_by_channel(tmp_path):
    source = Images(path=written(tmp_path, GREY), top=16)
    (example,) = read_examples(source, "task").examples
    row = encoder_of(None, None, "image").encode(example)
    assert row.tokens == (0, 255, 128, 64)
    assert row.answer == "7"
    assert not any(row.learned)
    (example,) = read_examples(Images(path=written(tmp_path, COLOUR), top=5), "task").examples
    assert encoder_of(None, None, "image").encode(example).tokens == (0, 153, 51, 204, 102, 255)


def test_an_image_survives_plain_data_and_equal_images_have_equal_texts():
    image = image_of([[0, 255]], 255)
    assert Image.from_dict(json.loads(json.dumps(image.to_dict()))) == image
    assert str(image) == str(image_of([[0, 255]], 255)) != str(image_of([[255, 0]], 255))


@pytest.mark.parametrize(
    "pixels", [[], [1, 2], [[1], [1, 2]], [[[1, 2]], [[1]]], [[17]], [[-1]], [["x"]], [[True]], "image", None]
)
def test_what_is_no_image_is_refused_with_its_line(tmp_path, pixels):
    with pytest.raises(DataError) as caught:
        read_examples(Images(path=written(tmp_path, GREY, {**GREY, "image": pixels}), top=16), "task")
    assert caught.value.code == "E-DATA-IMAGE"
    assert caught.value.where["line"] == 2


def test_init_knows_images_by_their_columns(tmp_path):
    assert guess_format(written(tmp_path, GREY, GREY)).format.name == "images"


def test_text_is_no_row_for_an_image_encoder():
    with pytest.raises(DataError) as caught:
        encoder_of(None, None, "image").prompt([Message("user", "a text")])
    assert caught.value.code == "E-DATA-IMAGE"


def test_check_shows_an_image_by_its_shades():
    row = Encoded("a", "task", (0, 255, 128, 64), (False,) * 4)
    assert "".join(token.text for token in check_view(row, None)) == " @\n+:\n"
