"""Rows that begin alike, with what they share computed once, against the same rows alone.

    python -m benchmarks.shared_prefix            # writes results/shared_prefix.json
    python -m benchmarks.shared_prefix --quick    # two rounds; prints

K answers to one prompt, and the rows of a task behind one instruction. The train stage finds what rows of a batch share
by itself (`keeptune/engine/shared_rows.py`). The rows alone are packed without padding, too.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from benchmarks import flops, workload
from benchmarks.peers.session import objective_of
from benchmarks.shared_work import arithmetic, compared, main, race, same_step
from keeptune.data.encode import Encoded
from keeptune.engine.shared_rows import pack_shared


class Case(NamedTuple):
    """Rows of `shared` tokens that are the same in all of them, `text` and `answer` tokens of their own."""

    shared: int
    text: int
    answer: int
    count: int

    @property
    def what(self) -> str:
        """The case in words."""
        if self.text == 0:
            return f"{self.count} answers of {self.answer} tokens to a prompt of {self.shared}"
        return (
            f"{self.count} rows behind an instruction of {self.shared} tokens, texts of {self.text}, "
            f"answers of {self.answer}"
        )


CASES = (
    Case(200, 0, 100, 4),
    Case(200, 0, 100, 8),
    Case(400, 0, 60, 8),
    Case(30, 20, 110, 8),
    Case(20, 12, 3, 64),
    Case(60, 40, 10, 32),
    Case(300, 40, 20, 16),
)


def rows_of(case: Case, seed: int) -> list[Encoded]:
    """The rows, of tokens at random."""
    generator = random.Random(seed)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(generator.randrange(3, workload.SHAPE["vocab_size"]) for _ in range(length))

    start = draw(case.shared)
    learned = (False,) * (case.shared + case.text) + (True,) * case.answer
    return [Encoded(f"r{n}", "task", (*start, *draw(case.text + case.answer)), learned) for n in range(case.count)]


def compare(model: Any, case: Case, rounds: int, seed: int) -> dict[str, Any]:
    """One row of the record."""
    rows, objective = rows_of(case, seed), objective_of(model)
    checked = same_step(objective, rows, rows)
    row = {
        "what": case.what,
        "peer": "the same rows alone, packed",
        **race(objective, rows, rows, rounds, seed),
        "checked": checked,
    }
    # The last token of a prompt predicts each row's own answer: it stays with the row.
    shared, learned = case.shared - (case.text == 0), [row.learned for row in rows]
    once, alone = flops.Work.of(learned, shared), flops.Work.of(learned)
    # And the last token of each is read by nobody.
    assert len(pack_shared(rows).tokens) == once.tokens + len(rows), "what is shared is found"
    return compared(row, arithmetic(alone) / arithmetic(once), alone.tokens / once.tokens)


if __name__ == "__main__":
    raise SystemExit(main("shared_prefix", (__doc__ or "").splitlines()[0], CASES, compare))
