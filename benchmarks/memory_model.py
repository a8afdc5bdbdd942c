"""Predicted against measured peak memory of training steps, each method and model in a process of its own.

    python -m benchmarks.memory_model             what is not in results/memory_model.json yet; then the table
    python -m benchmarks.memory_model --again     everything anew
    python -m benchmarks.memory_model lora        those whose name holds the word

A child takes two steps on a tiny model: what it holds then is the process itself. Then it builds the model, clears the
mark of peak memory, takes two steps, and reads the mark: that is *resident*. A third step runs under torch's profiler,
which sees every tensor come and go: the most that were there at a time, on top of the state, are *in use*. The two
differ by what the C library keeps of freed blocks.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
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

SMALL = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "n_embd": 64, "n_layer": 2, "n_head": 4,
}  # fmt: skip
"""What a model is made small with, for the process to load all its code before the floor is read."""


@dataclass(frozen=True)
class Combination:
    """One measurement: a method on a model, with the settings of the step."""

    model: str
    method: dict[str, Any]
    tokens: int = 2048
    row: int = 128
    micro: int | None = None
    quantize: str | None = None
    checkpointing: bool = False
    kl: bool = False
    optimizer: str = "adamw"
    dtype: str = "bfloat16"

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
    Combination("llama-30m", {"name": "full"}, micro=512, optimizer="adafactor"),
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
    Combination("qwen2-75m", {"name": "full"}),
    Combination("qwen2-75m", LORA),
    Combination("qwen2-75m", LORA, checkpointing=True),
    Combination("qwen2-75m", LORA, quantize="nf4", checkpointing=True),
    Combination("gpt2-33m", {"name": "full"}),
    Combination("gpt2-33m", LORA),
    Combination("gpt2-33m", {"name": "full"}, checkpointing=True),
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
        checkpointed=shape.layers if combination.checkpointing else 0,
        moments=8 if combination.optimizer == "adamw" else 0,
        reference=reference,
    )
    base = Base(shape, size, combination.quantize is not None)
    return training_memory(base, method.cost(shape), step, in_place=method.trains_base).to_dict()


def measure(number: int, pipe: Any) -> None:
    """The child's work: bytes in use and resident, the process itself left out."""
    from benchmarks.memory_steps import Steps
    from keeptune.core.usage import resident_bytes

    combination = COMBINATIONS[number]
    config = MODELS[combination.model]
    Steps({key: SMALL.get(key, value) for key, value in config.items()}, combination, tokens=256).take(2)
    floor = resident_bytes()
    steps = Steps(config, combination)
    resident = steps.take(2) - floor
    pipe.send({"floor": floor, "in_use": steps.in_use(), "resident": resident})


def run(number: int) -> dict[str, Any]:
    """One combination, predicted here and measured in a child."""
    from multiprocessing import Pipe, Process

    combination, (here, there) = COMBINATIONS[number], Pipe()
    child = Process(target=measure, args=(number, there))
    child.start()
    found: dict[str, int] = here.recv()
    child.join()
    expected = predicted(combination)
    found["in_use"] += expected["state"]
    errors = {
        "in_use": expected["peak"] / found["in_use"] - 1,
        "resident": expected["resident"] / found["resident"] - 1,
    }
    return {"name": combination.name, "predicted": expected, "measured": found, "error": errors}


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown, in MiB."""
    lines = [
        "| model, method | predicted peak | in use | error | predicted resident | resident | error |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        sizes = [row["predicted"]["peak"], row["measured"]["in_use"], row["predicted"]["resident"]]
        shown = [f"{size / 2**20:,.0f}" for size in (*sizes, row["measured"]["resident"])]
        errors = [f"{100 * row['error'][key]:+.0f}%" for key in ("in_use", "resident")]
        lines.append(
            f"| {row['name']} | {shown[0]} | {shown[1]} | {errors[0]} | {shown[2]} | {shown[3]} | {errors[1]} |"
        )
    within = [sum(abs(row["error"][key]) <= LIMIT for row in rows) for key in ("in_use", "resident")]
    verdict = f"Within {100 * LIMIT:.0f}%: {within[0]} of {len(rows)} in use, {within[1]} of {len(rows)} resident."
    return "\n".join([*lines, "", verdict])


def main() -> int:
    """Measures what has not been measured yet; 1 when a combination is further off than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only combinations whose name holds each of these words")
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    arguments = parser.parse_args()
    from keeptune.core.machine import calm_process

    calm_process()
    import torch

    torch.set_num_threads(1)
    known = {row["name"]: row for row in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    rows = []
    for number, one in enumerate(COMBINATIONS):
        if arguments.again or one.name not in known:
            if not all(word in one.name for word in arguments.words):
                continue
            known[one.name] = run(number)
            print(one.name, known[one.name]["error"], file=sys.stderr, flush=True)
            ordered = [known[other.name] for other in COMBINATIONS if other.name in known]
            RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        rows.append(known[one.name])
    print(table(rows))
    return 0 if all(abs(error) <= LIMIT for row in rows for error in row["error"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
