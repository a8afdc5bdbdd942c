"""How an image encoder wants its pixels scaled: `preprocessor_config.json` beside its weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from keeptune.models.folder import read_object

FILE = "preprocessor_config.json"
USUAL = 0.5
"""Mean and deviation of ViT, where no file says otherwise: levels from -1 to 1."""

Scale = tuple[list[float], list[float]]


def scale_of(model: PreTrainedModel) -> Scale:
    """Mean and deviation of each channel, of levels from 0 to 1.

    Raises:
        ModelError: the file is not JSON (E-MODEL-IMAGE).
    """
    channels: int = model.config.num_channels
    loaded = getattr(model, "loaded", None)
    file = None if loaded is None else loaded.path / FILE
    said = {} if file is None or not file.exists() else read_object(file, "E-MODEL-IMAGE")
    if said.get("do_normalize") is False:
        return [0.0] * channels, [1.0] * channels
    mean, deviation = (said.get(key) or [USUAL] * channels for key in ("image_mean", "image_std"))
    return list(map(float, mean)), list(map(float, deviation))


def copy_scale(source: Path, folder: Path) -> None:
    """Puts the file of one model folder into another, where there is one."""
    if (source / FILE).exists():
        shutil.copyfile(source / FILE, folder / FILE)
