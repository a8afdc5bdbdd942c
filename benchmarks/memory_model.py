"""Predicted against measured peak memory of training steps, each method and model in a process of its own.

    python -m benchmarks.memory_model              every combination; writes results/memory_model.json and prints a table
    python -m benchmarks.memory_model lora --quick some of them, by a word of their name, on the smallest model

A child imports everything that training imports and takes two steps on a tiny model: what it holds then is the floor,
the process itself. Then it builds the model, clears the mark of peak memory, takes two steps, and reads the mark.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "memory_model.json"
LIMIT = 0.15

MODELS: dict[str, dict[str, Any]] = {
    "llama-30m": {
        "model_type": "llama", "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1408,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024,
    },
    "qwen2-75m": {
        "model_type": "qwen2", "vocab_size": 32768, "hidden_size": 640, "intermediate_size": 1792,
        "num_hidden_layers": 10, "num_attention_heads": 10, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
    },
    "gpt2-33m": {
        "model_type": "gpt2", "vocab_size": 8192, "n_embd": 512, "n_layer": 8, "n_head": 8, "n_positions": 1024,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Combination:
    """One measurement: a method on a model, with the settings of the step."""

    model: str
    method: dict[str, Any]
    tokens: int = 4096
    row: int = 128
    micro: int | None = None
    quantize: str | None = None
    checkpointing: bool = False
    kl: bool = False
    optimizer: str = "adamw"
    dtype: str = "bfloat16"
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Model, method, and what is unusual about it."""
        parts = [self.model, str(self.method["name"])]
        parts += [self.quantize] if self.quantize else []
        parts += ["checkpointing"] if self.checkpointing else []
        parts += ["kl"] if self.kl else []
        parts += [f"micro {self.micro}"] if self.micro else []
        parts += [self.optimizer] if self.optimizer != "adamw" else []
        parts += [self.dtype] if self.dtype != "bfloat16" else []
        return " ".join(parts)


LORA = {"name": "lora", "rank": 16}
COMBINATIONS = [
    Combination("llama-30m", {"name": "full"}),
    Combination("llama-30m", {"name": "full"}, kl=True),
    Combination("llama-30m", {"name": "full"}, micro=1024, optimizer="adafactor"),
    Combination("llama-30m", LORA),
    Combination("llama-30m", LORA, kl=True),
    Combination("llama-30m", LORA, checkpointing=True),
    Combination("llama-30m", LORA, dtype="float32"),
    Combination("llama-30m", {**LORA, "rank": 64, "dropout": 0.1}, quantize="nf4"),
    Combination("llama-30m", {"name": "dora", "rank": 16}),
    Combination("llama-30m", {"name": "bottleneck", "bottleneck": 64}),
    Combination("llama-30m", {"name": "prefix", "length": 16}),
    Combination("llama-30m", {"name": "prompt", "length": 16}),
    Combination("llama-30m", {"name": "ia3"}),
    Combination("qwen2-75m", {"name": "full"}, tokens=2048),
    Combination("qwen2-75m", LORA, tokens=2048),
    Combination("qwen2-75m", LORA, tokens=2048, quantize="nf4", checkpointing=True),
    Combination("gpt2-33m", {"name": "full"}),
    Combination("gpt2-33m", LORA),
    Combination("gpt2-33m", {"name": "bitfit"}),
]


def predicted(combination: Combination) -> dict[str, int]:
    """Bytes from the shape alone."""
    from keeptune.core.shape import ModelShape
    from keeptune.methods import Method
    from keeptune.planning.memory import Base, Step, training_memory

    method = Method.model_validate(combination.method)
    shape = ModelShape.from_config(MODELS[combination.model])
    size = 4 if combination.dtype == "float32" else 2
    reference = "none" if not combination.kl else "off" if method.detachable else "copy"
    tokens = min(combination.micro or combination.tokens, combination.tokens)
    step = Step(
        tokens=tokens,
        row=combination.row,
        learned=tokens - tokens // combination.row,
        micro_batches=combination.tokens // tokens,
        checkpointing=combination.checkpointing,
        moments=8 if combination.optimizer == "adamw" else 0,
        reference=reference,
    )
    base = Base(shape, size, combination.quantize is not None)
    return training_memory(base, method.cost(shape), step, in_place=method.trains_base).to_dict()


def measure(number: int) -> dict[str, int]:
    """The child's work: floor, state and peak in bytes."""
    from keeptune.core.machine import calm_process

    calm_process()
    from benchmarks.memory_steps import Steps, resident

    Steps(TINY, COMBINATIONS[number], tokens=256).take(2)
    floor = resident()
    steps = Steps(MODELS[COMBINATIONS[number].model], COMBINATIONS[number])
    built = resident()
    peak = steps.take(2)
    return {"floor": floor, "state": resident() - floor, "loaded": built - floor, "peak": peak - floor}


TINY = {**MODELS["llama-30m"], "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


def run(number: int) -> dict[str, Any]:
    """One combination, predicted here and measured in a child."""
    combination = COMBINATIONS[number]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory_model", "--child", str(number)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found, expected = json.loads(done.stdout.splitlines()[-1]), predicted(combination)
    error = expected["peak"] / found["peak"] - 1
    return {"name": combination.name, "predicted": expected, "measured": found, "error": round(error, 4)}


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown, in MiB."""
    lines = ["| model, method | predicted peak | measured peak | error |", "|---|---:|---:|---:|"]
    for row in rows:
        sizes = [row["predicted"]["peak"] / 2**20, row["measured"]["peak"] / 2**20]
        lines.append(f"| {row['name']} | {sizes[0]:,.0f} | {sizes[1]:,.0f} | {100 * row['error']:+.0f}% |")
    within = sum(abs(row["error"]) <= LIMIT for row in rows)
    return "\n".join([*lines, "", f"{within} of {len(rows)} within {100 * LIMIT:.0f}% (MiB, the process itself left out)"])


def main() -> int:
    """Runs what was asked for; 1 when a combination is further off than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only combinations whose name holds each of these words")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(measure(arguments.child)))
        return 0
    chosen = [i for i, one in enumerate(COMBINATIONS) if all(word in one.name for word in arguments.words)]
    rows = []
    for number in chosen:
        rows.append(run(number))
        print(f"{rows[-1]['name']:<45} {rows[-1]['error']:+.1%}", file=sys.stderr, flush=True)
    if not arguments.words:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0 if all(abs(row["error"]) <= LIMIT for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
