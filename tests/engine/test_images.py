"""Rows of pixels through a ViT: transformers' own processing as the oracle, heads, and decisions from the image."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import ViTImageProcessor

from keeptune.core.errors import DataError
from keeptune.data.encoder import Encoded
from keeptune.engine.batch import pack
from keeptune.engine.images import pixel_values
from keeptune.engine.packed import packed_states
from keeptune.engine.readout import answers, image_answers
from keeptune.engine.rows import gated
from keeptune.methods import Head, SpotTune
from keeptune.models.load import load
from tests.contracts.test_methods import shaken
from tests.tiny_models import tiny_model


def rows(count=3, size=64, seed=1):
    levels = torch.randint(256, (count, size), generator=torch.Generator().manual_seed(seed)).tolist()
    return [Encoded(str(number), "task", tuple(row), (False,) * size, "a") for number, row in enumerate(levels)]


@pytest.mark.parametrize("settings", [{}, {"image_mean": [0.1], "image_std": [0.25]}])
def test_pixels_are_scaled_as_the_models_own_processor_does(tmp_path, settings):
    tiny_model("vit").save_pretrained(tmp_path)
    if settings:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    model = load(tmp_path, dtype="float32", device="cpu").model
    batch = pack(rows())
    images = batch.tokens.view(3, 1, 8, 8).float()
    usual = {"image_mean": [0.5], "image_std": [0.5], **settings}
    mean, deviation = usual["image_mean"][0], usual["image_std"][0]
    assert_close(pixel_values(model, batch), (images / 255 - mean) / deviation)
    assert ViTImageProcessor().image_mean[0] == 0.5, "what ViT's processor does without a file"


def test_the_states_of_a_batch_are_those_of_each_image_alone():
    model = tiny_model("vit")
    states = packed_states(model, pack(rows()), layers=True)
    for number, (start, end) in enumerate(states.spans):
        alone = model(pixel_values=pixel_values(model, pack(rows()[number : number + 1])), output_hidden_states=True)
        assert_close(states.hidden[start:end], alone.last_hidden_state[0], rtol=1e-5, atol=1e-5)
        assert_close(states.layers[1][start:end], alone.hidden_states[1][0], rtol=1e-5, atol=1e-5)


def test_a_head_says_the_same_of_rows_as_of_pixels():
    model = tiny_model("vit")
    shaken(model, Head(labels=["a", "b"], pooling="cls"))
    batch = pack(rows())
    for row, image in zip(answers(model, batch), image_answers(model, pixel_values(model, batch)), strict=True):
        assert torch.equal(row.scores, image.scores)


def test_an_image_of_another_size_is_refused_with_its_row():
    with pytest.raises(DataError) as caught:
        packed_states(tiny_model("vit"), pack(rows(size=49)))
    assert caught.value.code == "E-DATA-IMAGE"
    assert "49" in caught.value.what


def test_the_policy_decides_from_the_image_alone_and_row_by_row():
    """The gates are those of the mean patch embedding of the bare base, and the output is that of these gates."""
    model = tiny_model("vit")
    shaken(model, SpotTune(rank=2, hidden=8, bias=0.0))
    pixels = pixel_values(model, pack(rows(8)))
    policy = model.keeptune.adapter("one").placed[0][0].delta
    with torch.no_grad():
        pooled = tiny_model("vit").embeddings.patch_embeddings(pixels).mean(dim=1)
        gates = policy.logits(pooled).argmax(-1).float()
        found = model(pixel_values=pixels).last_hidden_state
        with gated(model, {"one": gates}):
            assert_close(found, model(pixel_values=pixels).last_hidden_state)
    assert len({tuple(row) for row in gates.tolist()}) > 1, "the images are decided differently"
    assert_close(found[2:3], model(pixel_values=pixels[2:3]).last_hidden_state, rtol=1e-5, atol=1e-5)
