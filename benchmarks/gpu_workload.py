"""The work of `gpu_step`: shapes of public models with random weights, and rows for them.

`alpaca`: lengths of instruction data, as in `workload`; the answer is supervised. A padded batch of 8 has twice as many
positions as tokens. `full`: rows of 2,048 tokens, all supervised, so that nobody pads and kernels alone count.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import flops, workload
from benchmarks.peers.pipe import ROOT

RANK = 16
LLAMA_3 = {"vocab_size": 128_256, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}
SHAPES: dict[str, dict[str, Any]] = {
    # Llama 3.2 1B
    "1b": {
        **LLAMA_3, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 8192, "tie_word_embeddings": True,
    },
    # Llama 3.1 8B
    "8b": {
        **LLAMA_3, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14_336, "tie_word_embeddings": False,
    },
    # of a rehearsal
    "tiny": {
        "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "tie_word_embeddings": True,
    },
}  # fmt: skip
SAYS = {"1b": "1B", "8b": "8B", "tiny": "tiny"}


@dataclass(frozen=True)
class Work:
    """What every contestant computes.

    Attributes:
        shape: a key of `SHAPES`.
        rows: `alpaca` or `full`.
        batch: rows of a step.
        length: tokens of a full row.
    """

    shape: str
    rows: str
    batch: int
    length: int = 2048

    @property
    def says(self) -> str:
        """As the table names it."""
        kind = "lengths of instruction data" if self.rows == "alpaca" else f"rows of {self.length:,} tokens"
        return f"{SAYS[self.shape]}, {kind}, {self.batch} a step"

    @property
    def config(self) -> dict[str, Any]:
        """The model's whole shape."""
        return {**workload.SHAPE, **SHAPES[self.shape]}

    def draw(self, steps: int, seed: int) -> list[dict[str, list[int]]]:
        """Rows of so many steps."""
        vocabulary, count = self.config["vocab_size"], steps * self.batch
        if self.rows == "alpaca":
            return workload.draw_rows(count, seed, vocabulary)
        generator = random.Random(seed)
        return [
            {
                "input_ids": [generator.randrange(3, vocabulary) for _ in range(self.length)],
                "completion_mask": [1] * self.length,
            }
            for _ in range(count)
        ]

    def useful(self, rows: Sequence[dict[str, list[int]]]) -> int:
        """Operations that a step on these rows cannot leave out."""
        work = flops.Work.of([row["completion_mask"] for row in rows])
        return flops.low_rank_step(flops.Shape.of(self.config), work, RANK)

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """Rows, inputs and outputs of products among which the best is looked for: the model's own, and a large one."""
        if self.shape == "tiny":
            return [(64, 64, 128)]
        width, inner = self.config["hidden_size"], self.config["intermediate_size"]
        return [(8192, width, width), (8192, width, inner), (8192, inner, width), (8192, 8192, 8192)]


def supervised(rows: Sequence[dict[str, list[int]]]) -> int:
    """Positions whose next token is learned."""
    return sum(sum(row["completion_mask"][1:]) for row in rows)


def written(work: Work, folder: Path, seed: int) -> Path:
    """The folder of a shape's weights below `folder`; made there unless it is there whole."""
    place = folder / f"{work.shape}-{seed}"
    done = place / "whole"
    if not done.exists():
        asked = {"folder": str(place), "seed": seed, "shape": SHAPES[work.shape]}
        command = [sys.executable, "-m", "benchmarks.peers.random_model", json.dumps(asked)]
        subprocess.run(command, check=True, cwd=ROOT)
        done.touch()
    return place
