"""Makes `prompt_encoders.json`: what the encoders of P-tuning's authors make of given weights.

    git clone https://github.com/THUDM/P-tuning CHECKOUT/P-tuning           # commit f4225d4, MIT
    git clone https://github.com/THUDM/P-tuning-v2 CHECKOUT/P-tuning-v2     # commit b1520c9, Apache-2.0
    python -m tests.oracles.prompt_encoders CHECKOUT

Weights are drawn from names (`tiny_weights.py`), so that a test makes the very same ones.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

from tests.oracles.tiny_weights import drawn

COMMITS = {
    "P-tuning": "f4225d4d8003868b31ed659dfe9732a351ad42d9",
    "P-tuning-v2": "b1520c9aa177ffe539a77b80fd8bca992e76513e",
}
FIXTURE = Path(__file__).with_suffix(".json")
LENGTH, WIDTH, LAYERS, HEADS, HIDDEN = 5, 8, 3, 2, 6


def fill(module: torch.nn.Module) -> None:
    """Every parameter from its own name."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(drawn(name, tuple(parameter.shape)))


def module_of(path: Path) -> ModuleType:
    """A file of theirs, without the package around it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tokens(checkout: Path) -> list[list[float]]:
    """`[p, D]`: the virtual tokens of P-tuning's LSTM and its two maps."""
    theirs = module_of(checkout / "P-tuning" / "LAMA" / "p_tuning" / "prompt_encoder.py")
    template = (2, 2, 1)
    encoder = theirs.PromptEncoder(template, WIDTH, None, "cpu", SimpleNamespace(lstm_dropout=0.0)).eval().double()
    fill(encoder)
    assert sum(template) == LENGTH
    return encoder().tolist()


def keys_values(checkout: Path, *, projection: bool) -> list[list[list[float]]]:
    """`[2 L, p, D]`: keys, then values of each layer, in the order in which their models split what comes out."""
    theirs = module_of(checkout / "P-tuning-v2" / "model" / "prefix_encoder.py")
    config = SimpleNamespace(
        prefix_projection=projection,
        pre_seq_len=LENGTH,
        hidden_size=WIDTH,
        prefix_hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
    )
    encoder = theirs.PrefixEncoder(config).eval().double()
    fill(encoder)
    made = encoder(torch.arange(LENGTH)[None])
    return made.view(LENGTH, 2 * LAYERS, WIDTH).transpose(0, 1).tolist()


def rounded(values: object) -> object:
    """Numbers with twelve decimals, in lists of any depth."""
    return [rounded(value) for value in values] if isinstance(values, list) else round(float(values), 12)  # type: ignore[arg-type]


def main(checkout: Path) -> None:
    """Runs their modules and writes what comes out."""
    found = {
        "p_tuning": tokens(checkout),
        "p_tuning_v2": keys_values(checkout, projection=False),
        "p_tuning_v2, with a network": keys_values(checkout, projection=True),
    }
    lines = ",\n".join(f'"{name}": {json.dumps(rounded(values))}' for name, values in found.items())
    FIXTURE.write_text(f'{{"commits": {json.dumps(COMMITS)},\n{lines}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
