"""Do verdicts come as often as `keeptune plan` says? Suites simulated under the shipped intervals say so.

    python -m benchmarks.forecast    # minutes -> benchmarks/results/forecast.json

Every case draws flips of independent right-or-wrong items and asks the shipped rules: each task by its score interval,
the mean over tasks by the wider of the tasks' intervals combined and the bootstrap. Once nothing is lost (PASS is
counted), once two margins are (FAIL). Odds of single tasks are exact, so that only the error of the simulation may
stand between; those of the mean are a normal approximation, which is allowed a point beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeptune.core.files import write_json
from keeptune.statistics.bootstrap import bootstrap_bounds
from keeptune.statistics.clusters import Sums
from keeptune.statistics.combined_score import combine_tasks
from keeptune.statistics.forecast import HARMED, suite_odds, task_margin
from keeptune.statistics.paired_score import score_interval

RESULTS = Path(__file__).parent / "results" / "forecast.json"
DRAWS, POOLED_DRAWS, RESAMPLES, FIRST_SEED = 20_000, 1_000, 500, 130_000
SIDE_BY_SIDE = 200
APPROXIMATION = 0.01
"""By which the forecast of the mean may be off."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A suite.

    Attributes:
        name: for the record.
        tasks: (items, discordance) of each.
        margins: as in a proof.
    """

    name: str
    tasks: tuple[tuple[int, float], ...]
    margins: dict[str, Any]

    @property
    def sizes(self) -> dict[str, tuple[int, float]]:
        """By name."""
        return {str(number): size for number, size in enumerate(self.tasks)}

    def margin(self, number: int) -> float:
        """Of one task."""
        return task_margin(self.margins, str(number))


USUAL = {"pooled": 0.01, "task": 0.03}
CASES = (
    Case("embedded suite, whole", ((1500, 0.10),) * 8, USUAL),
    Case("embedded suite, 400 questions a task", ((400, 0.10),) * 8, USUAL),
    Case("suite t1, items flip as published", ((5153, 0.10), (10042, 0.06), (1838, 0.08), (2376, 0.08), (1267, 0.10),
                                               (1000, 0.05)), USUAL),
    Case("four small tasks, wider margins", ((200, 0.10), (150, 0.05), (300, 0.15), (100, 0.10)),
         {"pooled": 0.03, "task": 0.05, "tasks": {"3": 0.10}}),
    Case("three tasks that hardly flip", ((500, 0.02), (300, 0.01), (800, 0.03)), USUAL),
)  # fmt: skip


def flips(case: Case, lost: float, draws: int, generator: np.random.Generator) -> list[Floats]:
    """(losses, gains) of each task in each draw, `[draws, 2]`; every task has lost so many of its margins."""
    found = []
    for number, (n, discordance) in enumerate(case.tasks):
        drop = lost * case.margin(number)
        d = max(discordance, drop)
        found.append(generator.multinomial(n, [(d + drop) / 2, (d - drop) / 2, 1 - d], size=draws)[:, :2])
    return found


def single(case: Case, lost: float, draws: int, seed: int) -> tuple[Floats, Floats]:
    """Verdicts of each task in each draw, two arrays `[draws, tasks]`: is it a PASS, is it a FAIL."""
    passed, failed = [], []
    for number, counts in enumerate(flips(case, lost, draws, np.random.default_rng(seed))):
        low, high = score_interval(case.tasks[number][0], counts[:, 1], counts[:, 0])
        passed.append(low > -case.margin(number))
        failed.append(high < -case.margin(number))
    return np.stack(passed, axis=1), np.stack(failed, axis=1)


def pooled(case: Case, lost: float, draws: int, seed: int) -> tuple[float, float]:
    """Shares of PASS and FAIL of the mean, every task having lost so many margins of the mean."""
    margin, verdicts = case.margins["pooled"], []
    level = Case(case.name, case.tasks, {"pooled": margin, "task": margin})
    for block in range(draws // SIDE_BY_SIDE):
        counts = flips(level, lost, SIDE_BY_SIDE, np.random.default_rng([seed, block]))
        deltas, lows, highs, strata = [], [], [], []
        for (n, _), own in zip(case.tasks, counts, strict=True):
            low, high = score_interval(n, own[:, 1], own[:, 0])
            deltas.append((own[:, 1] - own[:, 0]) / n)
            lows.append(low)
            highs.append(high)
            strata.append(_sums(n, own))
        bounds = bootstrap_bounds(strata, resamples=RESAMPLES, seed=seed * 1_000_003 + block)
        low, high = combine_tasks(deltas, lows, highs)
        verdicts.append([np.minimum(low, bounds.low) > -margin, np.maximum(high, bounds.high) < -margin])
    shares = np.mean(verdicts, axis=(0, 2))
    return float(shares[0]), float(shares[1])


def _sums(n: int, counts: Floats) -> Sums:
    """Every item its own cluster: losses first, then gains, then what stayed."""
    place = np.arange(n)
    lost, moved = counts[:, :1], counts.sum(axis=1, keepdims=True)
    change = np.where(place < lost, -1.0, np.where(place < moved, 1.0, 0.0))
    return Sums(change, np.ones_like(change), np.ones(n, dtype=np.int64))


def compare(case: Case, seed: int, *, draws: int = DRAWS, pooled_draws: int = POOLED_DRAWS) -> Iterator[dict[str, Any]]:
    """Rows of forecast against simulation: each task, all tasks together, the mean; without a loss and with one."""
    odds = suite_odds(case.sizes, case.margins)
    kept, lost = single(case, 0.0, draws, seed)[0], single(case, HARMED, draws, seed + 1)[1]
    for number, name in enumerate(case.sizes):
        yield row(case, f"task {name}: PASS", odds["tasks"][name], kept[:, number].mean(), draws)
        yield row(case, f"task {name}: FAIL", odds["harmed"]["tasks"][name], lost[:, number].mean(), draws)
    yield row(case, "every task: PASS", odds["every_task_passes"], kept.all(axis=1).mean(), draws)
    yield row(case, "some task: FAIL", odds["harmed"]["some_task_fails"], lost.any(axis=1).mean(), draws)
    passed, failed = pooled(case, 0.0, pooled_draws, seed + 2)[0], pooled(case, HARMED, pooled_draws, seed + 3)[1]
    yield row(case, "mean: PASS", odds["pooled_pass"], passed, pooled_draws)
    yield row(case, "mean: FAIL", odds["harmed"]["pooled_fail"], failed, pooled_draws)


def row(case: Case, what: str, said: float, seen: float, draws: int) -> dict[str, Any]:
    """One comparison; `error` is the simulation's standard error if the forecast is right."""
    error = float(np.sqrt(max(said * (1 - said), 1e-9) / draws))
    return {"suite": case.name, "what": what, "forecast": round(said, 5), "simulated": round(float(seen), 5),
            "error": round(error, 6), "draws": draws}  # fmt: skip


def agrees(found: dict[str, Any]) -> bool:
    """Within four standard errors; the mean within its approximation beside them."""
    allowed = 4 * found["error"] + APPROXIMATION * found["what"].startswith("mean") + 1e-5
    return bool(abs(found["simulated"] - found["forecast"]) <= allowed)


def main(cases: Sequence[Case] = CASES) -> int:
    """Every case, printed and written; 1 when a forecast and its simulation differ."""
    rows = [found for number, case in enumerate(cases) for found in compare(case, FIRST_SEED + 10 * number)]
    for found in rows:
        print(json.dumps({**found, "agrees": agrees(found)}), flush=True)
    report = {"command": "python -m benchmarks.forecast", "resamples": RESAMPLES, "rows": rows}
    write_json(RESULTS, report)
    return int(not all(map(agrees, rows)))


if __name__ == "__main__":
    raise SystemExit(main())
