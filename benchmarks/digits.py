"""Scikit-learn's bundled digits as a data file for `format: images`, and a small ViT that has seen none of them.

    python -m benchmarks.digits FOLDER

writes `digits.jsonl` (1,797 images of 8 x 8 pixels, 10 labels) and `vit/`, a random ViT for such images. Needs
`pip install 'keeptune[data]'`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import ViTConfig, ViTModel

SEED = 0


def write_digits(file: Path) -> int:
    """Writes the images, levels 0 to 16, and how many there are."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    with file.open("w", encoding="utf-8") as stream:
        for pixels, label in zip(digits.images.astype(int).tolist(), digits.target.tolist(), strict=True):
            stream.write(json.dumps({"image": pixels, "label": str(label)}) + "\n")
    return len(digits.target)


def write_vit(folder: Path, *, width: int = 96, layers: int = 4, seed: int = SEED) -> None:
    """Writes a ViT of `layers` blocks for images of 8 x 8 pixels of one channel, patches of 2 x 2."""
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        image_size=8,
        patch_size=2,
        num_channels=1,
    )
    ViTModel(config).save_pretrained(folder)


def main() -> None:
    """Writes both."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    count = write_digits(folder / "digits.jsonl")
    write_vit(folder / "vit")
    print(f"wrote {folder / 'digits.jsonl'} ({count} images) and {folder / 'vit'}")


if __name__ == "__main__":
    main()
