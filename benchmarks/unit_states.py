"""What an epoch of a probe pays for its states: cut out of the kept ones, against computed by the model.

python -m benchmarks.unit_states [--texts 2000] [--rounds 5] [--seed 0] [--quick]

Texts are random words of pocket's vocabulary, 4 to 28 of them, one layer is read. Both ways are checked to give
the same states. The store's own reading, once a process, is a row of its own.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import record
from keeptune.core.machine import calm_process
from keeptune.data.treebank import Sentence
from keeptune.data.word_tokens import UnitEncoder
from keeptune.engine.unit_states import unit_states
from keeptune.models.load import load
from keeptune.models.tensor_store import TensorStore
from keeptune.probes._material import Material

WORDS = "the a river stone walks quietly under old bridges where nobody ever looked for gold or silver".split()
LAYER = 4


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
    loaded = load("pocket", dtype="float32", device="cpu")
    encoder = UnitEncoder(loaded.tokenizer)
    rows = [encoder.words(Sentence(str(number), " ".join(own), own, {})) for number, own in enumerate(words)]
    computed, stored, cut = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = TensorStore(Path(folder))
        first = unit_states(loaded.model, rows, store=store)[LAYER]
        material = Material.of(first, [(0,) * len(own) for own in words], "labels")
        for _ in range(rounds):
            begun = time.perf_counter()
            again = unit_states(loaded.model, rows)[LAYER]
            computed.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            kept = unit_states(loaded.model, rows, store=store)[LAYER]
            stored.append(time.perf_counter() - begun)
            assert torch.equal(again, first)
            assert torch.equal(kept, first)
            order = draw.sample(range(texts), texts)
            begun = time.perf_counter()
            parts = [batch.states for batch in material.batches(order)]
            cut.append(time.perf_counter() - begun)
            assert sum(map(len, parts)) == len(first)
    middle = sorted(computed)[rounds // 2]
    found = [
        {
            "what": what,
            "seconds": round(sorted(own)[rounds // 2], 6),
            "times_cheaper": round(middle / sorted(own)[rounds // 2], 1),
        }
        for what, own in (("computed", computed), ("read from the store", stored), ("cut for an epoch", cut))
    ]
    sizes = {"texts": texts, "units": len(first), "width": first.shape[1]}
    record.write("unit_states", found, seeds=[asked.seed], quick=asked.quick, rounds=rounds, **sizes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
