"""Rows of pixels through an image encoder.

A row of a packed batch holds the levels 0 to 255 of C * H * W pixels in the place of tokens. They become

    x = (level / 255 - mean_c) / deviation_c

with the model's own mean and deviation, and the states that come back are those of the patches: the spans of the rows
are given beside them.

Shapes: S rows, P tokens of an image (its patches and the one before them), D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import DataError
from keeptune.engine.batch import PackedBatch
from keeptune.engine.captured import capturing
from keeptune.engine.padded import States
from keeptune.models.image_scale import scale_of


def image_shape(config: Any) -> tuple[int, int, int]:
    """(C, H, W) that a model reads."""
    size = config.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return config.num_channels, height, width


def pixel_values(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """`[S, C, H, W]` in the dtype of the model.

    Raises:
        DataError: an image has another size than the model reads (E-DATA-IMAGE).
    """
    channels, height, width = shape = image_shape(model.config)
    for row, length in enumerate(batch.lengths):
        if length != channels * height * width:
            raise DataError(
                f"an image has {length} values, and this model reads {channels} x {height} x {width}.",
                code="E-DATA-IMAGE",
                where={"key": batch.sources[row] or None},
                why=f"Row {batch.ids[row]}." if batch.ids[row] else "",
                fix="Bring the images to that size first.",
            )
    parameter = next(model.parameters())
    mean, deviation = (torch.tensor(side, device=parameter.device)[:, None, None] for side in scale_of(model))
    levels = batch.tokens.to(parameter.device).view(-1, *shape).float() / 255
    return ((levels - mean) / deviation).to(parameter.dtype)


def image_states(model: PreTrainedModel, pixels: Tensor, *, layers: bool) -> States:
    """The states of `[S, C, H, W]`, row after row: `[S P, D]`, and where each row's are."""
    model.body_path = "modules: patches of images"
    with capturing(model, layers) as between:
        hidden = model.base_model(pixel_values=pixels).last_hidden_state
    rows, tokens = hidden.shape[:2]
    spans = [(row * tokens, (row + 1) * tokens) for row in range(rows)]
    found = [*between[:-1], hidden] if layers else []
    return States(hidden.flatten(0, 1), tuple(state.flatten(0, 1) for state in found), spans=spans)
