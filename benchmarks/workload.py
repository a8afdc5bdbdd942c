"""The work that is timed: a small Llama of random weights, and rows with the lengths of instruction data.

Model: hidden 512, 4 layers, 8 heads of which 4 for keys and values, feed-forward 1408, vocabulary 32,000, tied.
Lengths: log-normal, shaped like Alpaca's: prompts of median 48 (20 to 300), answers of median 75 and mean 109
(10 to 400). Tokens are drawn uniformly: no arithmetic depends on which they are.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import dtype as Dtype

SHAPE: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROWS_PER_STEP = 8
PROMPT = (48, 0.55, 20, 300)  # median, spread of the logarithm, shortest, longest
ANSWER = (75, 0.86, 10, 400)
INSTRUCTION = 60
"""Tokens with which all rows of a task begin."""
TASK_TEXT = (30, 0.5, 8, 120)
TASK_ANSWER = (6, 0.5, 2, 24)
TASK_ROWS_PER_STEP = 32
MEGABATCH = 50  # batches that length grouping sorts at a time, as transformers does


def write_model(folder: Path, seed: int, *, dtype: Dtype | None = None, device: str = "cpu", **changes: Any) -> Path:
    """Saves the model with a tokenizer of made-up words; the same weights for everybody.

    Args:
        folder: to write to.
        seed: of the weights.
        dtype: of the weights; None: float32.
        device: where they are drawn.
        changes: to `SHAPE`.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    shape = {**SHAPE, **changes}
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape), dtype=dtype or torch.float32)
    model.save_pretrained(folder, max_shard_size="5GB")
    words = {f"w{number}": number for number in range(shape["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"pad_token": "w0", "bos_token": "w1", "eos_token": "w2"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    # The name of the class that every release of transformers knows.
    settings = {
        **json.loads((folder / "tokenizer_config.json").read_text()),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def draw_rows(count: int, seed: int, vocabulary: int = SHAPE["vocab_size"]) -> list[dict[str, list[int]]]:
    """Rows with `input_ids` and `completion_mask`."""
    generator, rows = random.Random(seed), []
    for _ in range(count):
        prompt, answer = length(generator, *PROMPT), length(generator, *ANSWER)
        tokens = [generator.randrange(3, vocabulary) for _ in range(prompt + answer)]
        rows.append({"input_ids": tokens, "completion_mask": [0] * prompt + [1] * answer})
    return rows


def draw_task(count: int, seed: int, vocabulary: int = SHAPE["vocab_size"]) -> list[dict[str, list[int]]]:
    """Rows of a task: one instruction of `INSTRUCTION` tokens, a text (median 30), a short answer (median 6)."""
    generator = random.Random(seed)
    instruction = [generator.randrange(3, vocabulary) for _ in range(INSTRUCTION)]
    rows = []
    for _ in range(count):
        text, answer = length(generator, *TASK_TEXT), length(generator, *TASK_ANSWER)
        # No two texts begin alike: what rows share by chance is not counted as useful.
        own = [
            3 + (len(rows) % (vocabulary - 3)),
            *(generator.randrange(3, vocabulary) for _ in range(text + answer - 1)),
        ]
        rows.append({"input_ids": [*instruction, *own], "completion_mask": [0] * (INSTRUCTION + text) + [1] * answer})
    return rows


def grouped_by_length(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows in batches of similar length; the batches in random order."""
    span, batches = MEGABATCH * ROWS_PER_STEP, []
    for start in range(0, len(rows), span):
        megabatch = sorted(rows[start : start + span], key=lambda row: -len(row["input_ids"]))
        batches += [megabatch[place : place + ROWS_PER_STEP] for place in range(0, len(megabatch), ROWS_PER_STEP)]
    random.Random(seed).shuffle(batches)
    return [row for batch in batches for row in batch]


def padding(rows: Sequence[dict[str, Any]], size: int = ROWS_PER_STEP) -> float:
    """Positions of padded batches of `size` rows over real tokens."""
    lengths = [len(row["input_ids"]) for row in rows]
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(max(batch) * len(batch) for batch in batches) / sum(lengths)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Saves rows for the contestants."""
    path.write_text(json.dumps(list(rows)), encoding="utf-8")
    return path


def length(generator: random.Random, median: float, spread: float, shortest: int, longest: int) -> int:
    """A log-normal number within its bounds."""
    return min(longest, max(shortest, round(median * generator.lognormvariate(0.0, spread))))
