"""Sequential sampling at a true loss equal to the margin: PASS may be 5%, however often one looks.

python -m benchmarks.sequential_calibration   # 20,000 draws per case -> benchmarks/results/sequential_calibration.json

Beside it: the same looks at the level of a single one (which errs too often), and the mean share of the items that an
unharmed model and a model with three margins of loss need.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.stats import beta

from keeptune.statistics.comparison import LEVEL
from keeptune.statistics.paired_score import score_interval
from keeptune.statistics.sequential import SHARES, levels
from keeptune.statistics.verdict_odds import verdict_odds

RESULTS = Path(__file__).parent / "results" / "sequential_calibration.json"
DRAWS, FIRST_SEED, LIMIT = 20_000, 90_000, 0.055
CASES = [  # n, discordance of an unharmed model, margin
    (300, 0.10, 0.03),
    (600, 0.05, 0.03),
    (1319, 0.15, 0.02),
    (1500, 0.10, 0.03),
    (5000, 0.05, 0.01),
]


def looked(n: int, discordance: float, margin: float, drop: float, own: list[float], seed: int) -> tuple[float, ...]:
    """(PASS, FAIL, mean share of items) over the draws, with these levels at the looks."""
    generator = np.random.default_rng(seed)
    discordance = max(discordance, drop)
    odds = [(discordance + drop) / 2, (discordance - drop) / 2, 1 - discordance]
    losses = gains = np.zeros(DRAWS)
    verdict, used, before = np.zeros(DRAWS), np.full(DRAWS, float(n)), 0
    for share, level in zip(SHARES, own, strict=True):
        end = round(share * n)
        counts = generator.multinomial(end - before, odds, size=DRAWS)
        losses, gains, before = losses + counts[:, 0], gains + counts[:, 1], end
        low, high = score_interval(end, gains, losses, level=level)
        fresh = (verdict == 0) & ((low > -margin) | (high < -margin))
        verdict[fresh] = np.where(low > -margin, 1, -1)[fresh]
        used[fresh] = end
    return float((verdict == 1).mean()), float((verdict == -1).mean()), float(used.mean() / n)


def measure(index: int) -> dict[str, object]:
    """One case, whole."""
    n, discordance, margin = CASES[index]
    seed, plain = FIRST_SEED + index, [LEVEL] * len(SHARES)
    edge = looked(n, discordance, margin, margin, levels(), seed)
    kept, fell = (looked(n, discordance, margin, drop, levels(), seed) for drop in (0.0, 3 * margin))
    return {
        "n": n,
        "discordance": discordance,
        "margin": margin,
        "false_pass": edge[0],
        "false_pass_upper_99": float(beta.ppf(0.99, edge[0] * DRAWS + 1, DRAWS - edge[0] * DRAWS)),
        "fail_at_margin": edge[1],
        "single_level_at_every_look": looked(n, discordance, margin, margin, plain, seed)[0],
        "unharmed": {"pass": kept[0], "items": kept[2]},
        "three_margins_lost": {"fail": fell[1], "items": fell[2]},
        "unharmed_one_look": verdict_odds(n, discordance, 0.0, margin).pass_,
    }


def main() -> int:
    """Every case, printed and written."""
    rows = [measure(index) for index in range(len(CASES))]
    for row in rows:
        print(json.dumps(row), flush=True)
    report = {"command": "python -m benchmarks.sequential_calibration", "draws": DRAWS, "limit": LIMIT, "cases": rows}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(row["false_pass_upper_99"] > LIMIT for row in rows))  # type: ignore[operator]


if __name__ == "__main__":
    raise SystemExit(main())
