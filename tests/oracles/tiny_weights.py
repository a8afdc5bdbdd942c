"""Weights that follow from names alone, so that two versions of a library can build one model.

Imported by tests here and by scripts that run in environments of their own: torch and the standard library only.
"""

from __future__ import annotations

import zlib

import torch


def drawn(name: str, shape: tuple[int, ...], scale: float = 0.3) -> torch.Tensor:
    """Normal values from a generator of the name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator) * scale


def fill_model(model: torch.nn.Module, *, distances: bool = True) -> None:
    """Every parameter from its name; gains of norms near 1; without `distances`, T5's relative biases are zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name and not distances:
                parameter.zero_()
                continue
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(drawn(name, tuple(parameter.shape), 0.1 if parameter.ndim == 1 else 0.3) + float(gain))


SIZES = {"vocab_size": 61, "pad_token_id": 0}
CONFIGS = {
    "t5": {**SIZES, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "eos_token_id": 2,
           "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0},
    "bart": {**SIZES, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "bos_token_id": 1,
             "eos_token_id": 2, "decoder_start_token_id": 2, "max_position_embeddings": 64},
    "bert": {**SIZES, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "max_position_embeddings": 64},
}  # fmt: skip
METHODS = {"t5": ["prefix", "houlsby", "pfeiffer", "parallel", "mam"], "bart": ["prefix", "houlsby", "parallel", "mam"],
           "bert": ["prefix", "houlsby", "parallel", "mam"]}  # fmt: skip
LENGTH, WIDTH, HEADS, HEAD_WIDTH, INNER = 2, 32, 4, 8, 4


def inputs(family: str) -> dict[str, torch.Tensor]:
    """Two rows, the second with pads behind it; for an encoder-decoder an answer each."""
    given = {
        "input_ids": torch.tensor([[5, 9, 33, 7, 21, 60], [8, 44, 3, 17, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
    }
    answers = {} if family == "bert" else {"decoder_input_ids": torch.tensor([[2, 6, 40], [2, 31, 12]])}
    return {**given, **answers}
