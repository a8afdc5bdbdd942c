"""A verdict over several tasks at once: how often it errs, and how often a task is named that lost nothing.

    python -m benchmarks.family_calibration    # 20,000 draws a case -> benchmarks/results/family_calibration.json

Requiring every task to pass needs no correction: where one task has lost its margin, PASS comes in at most 5%, whatever
the others do. FAIL is not corrected, because one loss beyond its margin is enough: what that costs a model at the very
edge, on every task, is counted. Naming a task that fell is corrected (Holm): where none did, one is named in at most
5%.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from keeptune.core.files import write_json
from keeptune.statistics.paired_score import score_interval

RESULTS = Path(__file__).parent / "results" / "family_calibration.json"
DRAWS, FIRST_SEED, LIMIT = 20_000, 150_000, 0.055
MARGIN, NAMED = 0.03, 0.05
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """Tasks of one size; the first `harmed` of them have truly lost `lost` margins, the others nothing.

    Attributes:
        tasks: how many.
        n: items of each.
        harmed: how many have lost something.
        lost: how much, in margins.
        together: the items of all tasks flip together, as far as their losses allow.
        discordance: share of the items that flips.
    """

    tasks: int
    n: int
    harmed: int
    lost: float
    together: bool = False
    discordance: float = 0.10

    @property
    def name(self) -> str:
        """For the record."""
        how = "flipping together" if self.together else "independent"
        return f"{self.tasks} tasks of {self.n} items, {how}; {self.harmed} lost {self.lost:g} margins"

    def draw(self, generator: np.random.Generator, draws: int) -> Counts:
        """(losses, gains) of every task, `[draws, tasks, 2]`."""
        drops = [self.lost * MARGIN * (number < self.harmed) for number in range(self.tasks)]
        odds = [[(self.discordance + d) / 2, (self.discordance - d) / 2, 1 - self.discordance] for d in drops]
        if not self.together:
            return np.stack([generator.multinomial(self.n, own, size=draws)[:, :2] for own in odds], axis=1)
        # One place for every item, whatever the task: below the odds of a loss it is lost, above those of none gained.
        counts = np.zeros((draws, self.tasks, 2), dtype=np.int64)
        for number in range(draws):
            place = np.sort(generator.random(self.n))
            for task, (loss, gain, _) in enumerate(odds):
                counts[number, task] = np.searchsorted(place, loss), self.n - np.searchsorted(place, 1 - gain)
        return counts


CASES = [
    *(Case(tasks, n, harmed, 1.0) for tasks, n in ((4, 400), (8, 400), (8, 1500)) for harmed in (1, tasks)),
    Case(8, 1500, 8, 0.5),
    *(Case(8, n, 0, 0.0) for n in (400, 1500)),
    *(Case(8, 400, harmed, 1.0, together=True) for harmed in (1, 8)),
    Case(8, 400, 0, 0.0, together=True),
]


def measure(case: Case, draws: int, seed: int) -> dict[str, object]:
    """Shares of PASS (every task) and FAIL (any task), and of draws in which a task is named as fallen."""
    counts = case.draw(np.random.default_rng(seed), draws)
    losses, gains = counts[..., 0], counts[..., 1]
    low, high = (ends.reshape(losses.shape) for ends in score_interval(case.n, gains.ravel(), losses.ravel()))
    passed, failed = (low > -MARGIN).all(axis=1).sum(), (high < -MARGIN).any(axis=1).sum()
    flips = losses + gains
    p = binom.sf(losses, flips, 0.5) + binom.pmf(losses, flips, 0.5) / 2
    named = (p.min(axis=1) * case.tasks < NAMED).sum()  # the first step of Holm's; without it there is no other
    return {
        "case": case.name,
        "draws": draws,
        "pass": float(passed / draws),
        "pass_upper_99": _upper(int(passed), draws),
        "fail": float(failed / draws),
        "named": float(named / draws),
        "named_upper_99": _upper(int(named), draws),
    }


def _upper(count: int, draws: int) -> float:
    """One-sided 99% Clopper-Pearson bound of a rate."""
    return 1.0 if count == draws else float(beta.ppf(0.99, count + 1, draws - count))


def errs(case: Case, row: dict[str, object]) -> bool:
    """PASS although a task lost its margin, or a task named although none lost anything, more often than promised."""
    promised = []
    if case.harmed and case.lost >= 1:
        promised.append(row["pass_upper_99"])
    if not case.harmed:
        promised.append(row["named_upper_99"])
    return any(float(rate) > LIMIT for rate in promised)  # type: ignore[arg-type]


def main() -> int:
    """Every case, printed and written."""
    rows = [measure(case, DRAWS, FIRST_SEED + index) for index, case in enumerate(CASES)]
    for row in rows:
        print(json.dumps(row), flush=True)
    write_json(RESULTS, {"command": "python -m benchmarks.family_calibration", "limit": LIMIT, "cases": rows})
    return int(any(errs(case, row) for case, row in zip(CASES, rows, strict=True)))


if __name__ == "__main__":
    raise SystemExit(main())
