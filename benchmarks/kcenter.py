"""Exact k-center greedy: ours, one matrix-vector product per centre, and the naive loop.

    python -m benchmarks.kcenter            # 50,000 x 384, 5,000 centres
    python -m benchmarks.kcenter --quick    # 8,000 x 64, 400 centres; prints, writes nothing

The peer keeps the distance to the nearest centre and updates it with one product `X c` for each centre, as the public
implementations do at best; the naive loop makes the differences `X - c` first and is timed on a share of the centres.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.interleave import interleaved, middle, ratio, timed
from keeptune.selectors._farthest_first import farthest_first

Floats = NDArray[np.float32]
FIRST = 0
NAIVE_SHARE = 50
"""The naive loop runs over every 50th of the centres; its cost per centre is constant."""


def clustered(count: int, width: int, seed: int) -> Floats:
    """Unit vectors around 200 directions, as sentence embeddings lie."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(200, width))
    points = centres[generator.integers(200, size=count)] + 0.7 * generator.normal(size=(count, width))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def incremental(points: Floats, first: int, count: int) -> tuple[list[int], list[float]]:
    """One matrix-vector product for each centre."""
    norms, indices, distances = np.einsum("nd,nd->n", points, points), [first], [0.0]
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    while len(indices) < count:
        centre = points[indices[-1]]
        np.minimum(nearest, norms + norms[indices[-1]] - 2 * (points @ centre), out=nearest)
        nearest[indices[-1]] = -1
        indices.append(int(np.argmax(nearest)))
        distances.append(float(np.sqrt(max(0.0, nearest[indices[-1]]))))
    return indices, distances


def naive(points: Floats, first: int, count: int) -> None:
    """All differences for each centre."""
    last, nearest = first, np.full(len(points), np.inf, dtype=np.float32)
    for _ in range(count):
        np.minimum(nearest, np.linalg.norm(points - points[last], axis=1), out=nearest)
        last = int(np.argmax(nearest))


def compare(count: int, width: int, centres: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """The rows of the record: equal choices first, then the times."""
    points = clustered(count, width, seed)
    own_indices, own_distances = farthest_first(points, FIRST, centres)
    peer_indices, peer_distances = incremental(points, FIRST, centres)
    apart = float(np.max(np.abs(own_distances - np.array(peer_distances))))
    same = float(np.mean(own_indices == np.array(peer_indices)))
    # A near tie may be decided by rounding, and what follows is then another order of the same distances.
    assert apart < 1e-3, f"the distances of the choices differ by {apart}"
    work = {
        "own": lambda _: timed(lambda: farthest_first(points, FIRST, centres)),
        "blas": lambda _: timed(lambda: incremental(points, FIRST, centres)),
        "naive": lambda _: NAIVE_SHARE * timed(lambda: naive(points, FIRST, max(1, centres // NAIVE_SHARE))),
    }
    seconds = interleaved(work, rounds, seed, warm=0)
    what = f"k-center greedy, {count:,} x {width}, {centres:,} centres"
    checked = {"same_choices": round(same, 5), "largest_difference_of_distances": apart}
    peers = {"blas": "one matrix-vector product per centre", "naive": "differences for each centre"}
    return [
        {
            "what": what,
            "peer": peers[name],
            "own_seconds": middle(seconds["own"]),
            "peer_seconds": middle(seconds[name]),
            "speed": ratio(seconds[name], seconds["own"]),
            "checked": checked,
        }
        for name in ("blas", "naive")
    ]


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--centres", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    size = (8_000, 64, 400) if asked.quick else (50_000, 384, asked.centres)
    record.write(
        "kcenter", compare(*size, asked.rounds, asked.seed), seeds=[asked.seed], quick=asked.quick, rounds=asked.rounds
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
