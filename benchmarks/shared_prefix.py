"""K answers to one prompt with the prompt computed once, against K rows that repeat it.

    python -m benchmarks.shared_prefix            # writes results/shared_prefix.json
    python -m benchmarks.shared_prefix --quick    # two rounds; prints

The train stage does this by itself where rows of a batch begin alike (`keeptune/engine/shared_rows.py`). The repeated
rows are packed without padding; to lay them out so, they get sources of their own, for only rows of one source share.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from benchmarks import flops, workload
from benchmarks.peers.session import objective_of
from benchmarks.shared_work import arithmetic, compared, main, race, same_step
from keeptune.data.encode import Encoded
from keeptune.engine.shared_rows import pack_shared

CASES = ((200, 100, 4), (200, 100, 8), (400, 60, 8))
"""Tokens of the prompt, tokens of an answer, answers."""


def answers(prompt: int, answer: int, count: int, seed: int) -> tuple[list[Encoded], list[Encoded]]:
    """Rows of one prompt, and the same rows as if each came from another source, so that nothing is shared."""
    generator = random.Random(seed)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(generator.randrange(3, workload.SHAPE["vocab_size"]) for _ in range(length))

    start = draw(prompt)
    learned = (False,) * prompt + (True,) * answer
    together = [Encoded(f"r{number}", "task", (*start, *draw(answer)), learned) for number in range(count)]
    return together, [replace(row, source=f"task-{number}") for number, row in enumerate(together)]


def compare(model: Any, case: tuple[int, int, int], rounds: int, seed: int) -> dict[str, Any]:
    """One row of the record."""
    prompt, answer, count = case
    together, apart = answers(*case, seed)
    objective = objective_of(model)
    objective.stacks = {row.source: objective.stacks["task"] for row in (*together, *apart)}
    checked = same_step(objective, together, apart)
    row = {
        "what": f"{count} answers of {answer} tokens to a prompt of {prompt}",
        "peer": "the prompt repeated for each answer, packed",
        **race(objective, apart, together, rounds, seed),
        "checked": checked,
    }
    tokens = len(pack_shared(together).tokens), count * (prompt + answer)
    shared = prompt - 1
    own = answer + 1
    pairs = flops.causal_pairs([shared]) + count * (flops.causal_pairs([own]) + own * shared)
    work = (
        arithmetic(tokens[0], pairs, count * answer),
        arithmetic(tokens[1], count * flops.causal_pairs([prompt + answer]), count * answer),
    )
    return compared(row, work[1] / work[0], tokens[1] / tokens[0])


if __name__ == "__main__":
    raise SystemExit(main("shared_prefix", (__doc__ or "").splitlines()[0], CASES, compare))
