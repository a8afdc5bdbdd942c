"""Greedy generation of many prompts at once, against transformers' own.

    python -m benchmarks.generation            # writes results/generation.json
    python -m benchmarks.generation --quick    # two rounds; prints

128 prompts of 20 to 60 tokens, 48 new tokens each, both sides batched and padded on the left with a cache, one thread.
Before the rounds both write the same tokens in float32; in bfloat16, which is timed, near ties may fall otherwise.
Beside it, what a written token costs in tokens that are read and scored, packed: `keeptune plan` supposes four.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import keeptune.pocket
from benchmarks import record, workload
from benchmarks.interleave import interleaved, middle, ratio, timed
from keeptune.core.machine import calm_process
from keeptune.engine.generation import generate
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import token_logprobs
from keeptune.models.load import Loaded, load

POCKET = Path(keeptune.pocket.__file__).parent / "weights"
PROMPTS, SHORTEST, LONGEST, NEW = 128, 20, 60, 48
Prompts = Sequence[Sequence[int]]


def drawn(vocabulary: int, seed: int) -> Prompts:
    """Prompts of uniform tokens."""
    generator = random.Random(seed)
    lengths = [generator.randint(SHORTEST, LONGEST) for _ in range(PROMPTS)]
    return [[generator.randrange(3, vocabulary) for _ in range(length)] for length in lengths]


def ours(loaded: Loaded) -> Callable[[Prompts], list[list[int]]]:
    """Our way."""
    budget = PROMPTS * (LONGEST + NEW)  # one batch, as on the other side
    return lambda prompts: generate(
        loaded.model, loaded.tokenizer, prompts, max_new_tokens=NEW, stop_ids=set(), batch_tokens=budget
    )


def theirs(folder: Path, dtype: str) -> Callable[[Prompts], list[list[int]]]:
    """Their way; no token ends an answer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model.generation_config.eos_token_id = None

    def write(prompts: Prompts) -> list[list[int]]:
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            written = model.generate(
                input_ids=tokens, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0
            )
        found: list[list[int]] = written[:, width:].tolist()
        return found

    return write


def compare(what: str, folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    """A row of the record."""
    vocabulary = AutoModelForCausalLM.from_pretrained(folder).config.vocab_size
    prompts = drawn(vocabulary, seed)
    assert ours(load(folder, dtype="float32", device="cpu"))(prompts) == theirs(folder, "float32")(prompts), (
        "both sides write the same"
    )
    loaded = load(folder, dtype="bfloat16", device="cpu")
    own, peer = ours(loaded), theirs(folder, "bfloat16")
    texts = [Scored([*prompt, *answer], 1) for prompt, answer in zip(prompts, own(prompts), strict=True)]
    agree = [
        a == b for one, other in zip(own(prompts), peer(prompts), strict=True) for a, b in zip(one, other, strict=True)
    ]
    ways = {
        "own": lambda: own(prompts),
        "peer": lambda: peer(prompts),
        "read": lambda: token_logprobs(loaded.model, texts),
    }
    turns = {name: lambda _, way=way: timed(way) for name, way in ways.items()}
    seconds = interleaved(turns, rounds, seed)
    scored = [time * PROMPTS * NEW / sum(len(text.tokens) for text in texts) for time in seconds["read"]]
    return {
        "what": f"{PROMPTS} prompts, {NEW} new tokens each, bfloat16: {what}",
        "peer": "transformers' generate",
        "own_seconds": middle(seconds["own"]),
        "peer_seconds": middle(seconds["peer"]),
        "speed": ratio(seconds["peer"], seconds["own"]),
        "written_over_read": ratio(seconds["own"], scored),
        "checked": {"same_tokens_in_bfloat16": round(sum(agree) / len(agree), 3)},
    }


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 2 if asked.quick else asked.rounds
    with tempfile.TemporaryDirectory() as made:
        shaped = workload.write_model(Path(made) / "model", asked.seed)
        rows = [
            compare("pocket", POCKET, rounds, asked.seed),
            compare("hidden 512, 4 layers", shaped, rounds, asked.seed),
        ]
    record.write("generation", rows, seeds=[asked.seed], quick=asked.quick, rounds=rounds)
    return 0


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
