"""Prefixes, bottlenecks, parallel adapters and MAM on T5, BART and BERT against AdapterHub (`tests/oracles`).

The fixture's prefixes on T5 were computed without biases of distances; `tests/engine/test_seq2seq.py` has those.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from keeptune.engine.prefixes import KeysValues
from keeptune.methods import MAM, Bottleneck, Parallel, Prefix
from keeptune.models.anatomy import anatomy_of
from keeptune.models.auto_class import auto_class
from tests.oracles.tiny_weights import CONFIGS, HEAD_WIDTH, HEADS, INNER, LENGTH, METHODS, drawn, fill_model, inputs

EXPECTED = json.loads((Path(__file__).parents[1] / "oracles" / "adapterhub.json").read_text())["logits"]
OURS = {
    "prefix": Prefix(length=LENGTH, hidden=None, positions="none"),
    "houlsby": Bottleneck(bottleneck=INNER, activation="gelu"),
    "pfeiffer": Bottleneck(bottleneck=INNER, activation="gelu", placement="pfeiffer"),
    "parallel": Parallel(bottleneck=INNER),
    "mam": MAM(length=LENGTH, hidden=None, positions="none", bottleneck=INNER),
}


def built(family, method):
    config = AutoConfig.for_model(family, **CONFIGS[family])
    model = auto_class(config.to_dict()).from_config(config, attn_implementation="eager").eval()
    fill_model(model, distances=method not in ("prefix", "mam"))
    return model


def side_of(anatomy, layer):
    """The stack of a layer, and its number there."""
    first = next((one.index for one in anatomy.layers if one.cross), len(anatomy.layers))
    return ("decoder", layer.index - first) if layer.cross else ("encoder", layer.index)


def fill_adapter(model):
    """The values that the script gave AdapterHub, by the same names."""
    anatomy = anatomy_of(model)
    layers = {layer.index: layer for layer in anatomy.layers}
    for part in model.keeptune.adapter("one").placed:
        for place, delta, _ in part:
            if place.layer is None:
                continue
            layer = layers[place.layer]
            side, number = side_of(anatomy, layer)
            if isinstance(place, KeysValues):
                site = "cross" if place.cross else {"encoder": "encoder", "decoder": "self"}[side]
                if anatomy.kind == "encoder":
                    site = "self"
                count = 2 * (2 if anatomy.kind == "encoder_decoder" else len(layers))
                values = drawn(f"prefix.{site}", (LENGTH, count, HEADS, HEAD_WIDTH))
                delta.prefix_keys.copy_(values[:, 2 * number])
                delta.prefix_values.copy_(values[:, 2 * number + 1])
                continue
            sublayer = {path: name for name, path in layer.sublayers.items()}.get(place.path, "feed_forward")
            for name in ("down", "down_bias", "up", "up_bias"):
                parameter = getattr(delta, name)
                parameter.copy_(drawn(f"{side}.{number}.{sublayer}.{name}", tuple(parameter.shape)))


@pytest.mark.parametrize(
    ("family", "method"), [(family, method) for family in METHODS for method in ["base", *METHODS[family]]]
)
def test_logits_are_adapterhubs(family, method):
    model = built(family, method)
    with torch.no_grad():
        if method != "base":
            OURS[method].attach(model, "one")
            fill_adapter(model)
        logits = model.double()(**inputs(family)).logits[:, -1]
    torch.testing.assert_close(
        logits, torch.tensor(EXPECTED[f"{family} {method}"], dtype=torch.float64), rtol=0, atol=3e-5
    )
    if method != "base":
        other = torch.tensor(EXPECTED[f"{family} base"], dtype=torch.float64)
        assert (logits - other).abs().max() > 0.1
