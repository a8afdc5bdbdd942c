"""A conversation as one masked sequence, against a row for each of its answers.

    python -m benchmarks.multi_turn            # writes results/multi_turn.json
    python -m benchmarks.multi_turn --quick    # two rounds; prints

In a causal model an answer sees the same past either way, so one pass over the whole conversation, with the loss on
every answer, has the gradient of the rows one by one. Both layouts are packed without padding. The last column says how
much of the ratio of arithmetic was reached.
"""

from __future__ import annotations

import random
from typing import Any

from benchmarks import flops, workload
from benchmarks.peers.session import objective_of
from benchmarks.shared_work import arithmetic, compared, main, race, same_step
from keeptune.data.encode import Encoded

CASES = ((2, 40, 60), (4, 40, 60), (6, 30, 60))
"""Turns, tokens of a question, tokens of an answer."""
CONVERSATIONS = 1


def conversations(turns: int, question: int, answer: int, seed: int) -> tuple[list[Encoded], list[Encoded]]:
    """Whole conversations, and their answers one by one."""
    generator = random.Random(seed)
    whole, split = [], []
    for number in range(CONVERSATIONS):
        tokens: tuple[int, ...] = ()
        learned: tuple[bool, ...] = ()
        for turn in range(turns):
            said = tuple(generator.randrange(3, workload.SHAPE["vocab_size"]) for _ in range(question + answer))
            past = len(tokens) + question
            tokens += said
            learned += (False,) * question + (True,) * answer
            split.append(Encoded(f"c{number}-{turn}", "task", tokens, (False,) * past + (True,) * answer))
        whole.append(Encoded(f"c{number}", "task", tokens, learned))
    return whole, split


def compare(model: Any, case: tuple[int, int, int], rounds: int, seed: int) -> dict[str, Any]:
    """One row of the record."""
    whole, split = conversations(*case, seed)
    objective = objective_of(model)
    checked = same_step(objective, split, whole)
    lengths = [[len(row.tokens) for row in rows] for rows in (whole, split)]
    work = [arithmetic(flops.Work.of([row.learned for row in rows])) for rows in (whole, split)]
    row = {
        "what": f"conversation of {case[0]} turns, {case[1]} + {case[2]} tokens each",
        "peer": "a row for each answer, packed",
        **race(objective, split, whole, rounds, seed),
        "checked": checked,
    }
    return compared(row, work[1] / work[0], sum(lengths[1]) / sum(lengths[0]))


if __name__ == "__main__":
    raise SystemExit(main("multi_turn", (__doc__ or "").splitlines()[0], CASES, compare))
