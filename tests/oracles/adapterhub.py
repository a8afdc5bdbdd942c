"""Regenerates adapterhub.json: logits of prefixes, bottlenecks, parallel adapters and MAM as AdapterHub computes them.

AdapterHub pins another transformers than keeptune, so this runs in an environment of its own, which `build.sh` builds:

    oracle/bin/python tests/oracles/adapterhub.py

Attention is eager: the library's default path misplaces the causal triangle behind a prefix. In T5 the library counts
a prefix as positions of keys but not of queries, so that the text's own distances are off by its length; prefixes are
therefore compared on a T5 whose biases of distances are zero.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import adapters
import torch
import transformers
from adapters import ConfigUnion, DoubleSeqBnConfig, ParBnConfig, PrefixTuningConfig, SeqBnConfig
from tiny_weights import CONFIGS, HEAD_WIDTH, HEADS, LENGTH, METHODS, WIDTH, drawn, fill_model, inputs

RESULT = Path(__file__).with_name("adapterhub.json")
CLASSES = {
    "t5": (transformers.T5Config, transformers.T5ForConditionalGeneration),
    "bart": (transformers.BartConfig, transformers.BartForConditionalGeneration),
    "bert": (transformers.BertConfig, transformers.BertForMaskedLM),
}
FACTOR = WIDTH // 4
SUBLAYERS = {"attention": "attention", "cross_attention": "cross", "output": "feed_forward"}
PARTS = {"adapter_down.0.weight": "down", "adapter_down.0.bias": "down_bias", "adapter_up.weight": "up",
         "adapter_up.bias": "up_bias"}  # fmt: skip


def config(method: str):
    """The library's settings for one of our methods."""
    prefix, parallel = PrefixTuningConfig(flat=True, prefix_length=LENGTH), ParBnConfig(reduction_factor=FACTOR)
    return {
        "prefix": prefix,
        "houlsby": DoubleSeqBnConfig(reduction_factor=FACTOR, cross_adapter=True, non_linearity="gelu"),
        "pfeiffer": SeqBnConfig(reduction_factor=FACTOR, non_linearity="gelu"),
        "parallel": parallel,
        "mam": ConfigUnion(prefix, parallel),
    }[method]


def place(name: str) -> str:
    """`side.layer.sublayer` of a bottleneck's parameter."""
    if found := re.search(r"(encoder|decoder)\.block\.(\d)\.layer\.(\d)\.adapters", name):
        side, layer, number = found.groups()
        last = "1" if side == "encoder" else "2"
        return f"{side}.{layer}.{'attention' if number == '0' else 'feed_forward' if number == last else 'cross'}"
    if found := re.search(r"(encoder|decoder)\.layers\.(\d)\.(\w+)_adapters", name):
        side, layer, kind = found.groups()
        return f"{side}.{layer}.{SUBLAYERS[kind]}"
    found = re.search(r"encoder\.layer\.(\d)\.(attention\.)?output\.adapters", name)
    assert found, name
    return f"encoder.{found.group(1)}.{'attention' if found.group(2) else 'feed_forward'}"


def fill_adapter(parameters: dict[str, torch.nn.Parameter]) -> None:
    """Every value from a name that both libraries can make."""
    for name, parameter in parameters.items():
        if name.endswith("control_trans"):
            site = name.split(".")[-2].removesuffix("_prefix")
            layers = parameter.numel() // (LENGTH * 2 * HEADS * HEAD_WIDTH)
            parameter.copy_(drawn(f"prefix.{site}", (LENGTH, 2 * layers, HEADS, HEAD_WIDTH)).flatten())
        else:
            part = next(ours for theirs, ours in PARTS.items() if name.endswith(theirs))
            parameter.copy_(drawn(f"{place(name)}.{part}", tuple(parameter.shape)))


def main() -> None:
    """Writes the logits of the last position of every case."""
    found = {"adapters": adapters.__version__, "transformers": transformers.__version__, "logits": {}}
    for family, methods in METHODS.items():
        kind, model_class = CLASSES[family]
        for method in ["base", *methods]:
            model = model_class._from_config(kind(**CONFIGS[family]), attn_implementation="eager").eval()
            fill_model(model, distances=method not in ("prefix", "mam"))
            adapters.init(model)
            if method != "base":
                before = {name for name, _ in model.named_parameters()}
                model.add_adapter("one", config=config(method))
                model.set_active_adapters("one")
                model.eval()
                own = {name: p for name, p in model.named_parameters() if name not in before}
                with torch.no_grad():
                    fill_adapter(own)
            with torch.no_grad():
                logits = model.double()(**inputs(family)).logits[:, -1]
            found["logits"][f"{family} {method}"] = [[round(value, 6) for value in row] for row in logits.tolist()]
    RESULT.write_text(json.dumps(found, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
