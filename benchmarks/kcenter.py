"""Exact k-center greedy: ours, one matrix-vector product per centre, the naive loop, and public implementations.

    python -m benchmarks.kcenter            # 50,000 x 384, 5,000 centres; with --million also 10,000 of 1,000,000
    python -m benchmarks.kcenter --quick    # 8,000 x 64, 400 centres; prints, writes nothing
    python -m benchmarks.kcenter --public FOLDER    # with the checkouts that `benchmarks.peers.public_kcenter` names

One peer keeps the distance to the nearest centre and updates it with one product `X c` for each centre; the naive loop
makes the differences `X - c` first. Peers are timed on a share of the centres, since a centre costs them the same
whichever it is; on these they must choose what ours chooses, but for near ties. Ours makes all choices, which must be
those of a loop in float64, in the same order. The million is one run of the whole selector, k-means for its first
choice included, in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.interleave import interleaved, middle, ratio, timed
from benchmarks.peers.pipe import Contestant
from benchmarks.peers.public_kcenter import public
from keeptune.selectors._farthest_first import farthest_first

Floats = NDArray[np.float32]
FIRST = 0
SHARE = 50
"""What costs the same for each centre is timed on one in so many."""
MILLION = {"points": 1_000_000, "width": 384, "centres": 10_000}
GIB = 1 << 30
ROWS_AT_ONCE = 10_000


def clustered(count: int, width: int, seed: int) -> Floats:
    """Unit vectors around 200 directions, as sentence embeddings lie."""
    generator = np.random.default_rng(seed)
    centres, points = generator.normal(size=(200, width)), np.empty((count, width), dtype=np.float32)
    for start in range(0, count, ROWS_AT_ONCE):
        part = points[start : start + ROWS_AT_ONCE]
        drawn = centres[generator.integers(200, size=len(part))] + 0.7 * generator.normal(size=part.shape)
        part[:] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return points


def wide(points: Floats, first: int, count: int) -> list[int]:
    """The choices of a loop in float64; squared differences where two are too close for products."""
    exact, indices = points.astype(np.float64), [first]
    norms, nearest = np.einsum("nd,nd->n", exact, exact), np.full(len(points), np.inf)
    while len(indices) < count:
        centre = exact[indices[-1]]
        np.minimum(nearest, norms + norms[indices[-1]] - 2 * (exact @ centre), out=nearest)
        nearest[indices[-1]] = -1
        first_two = np.partition(nearest, -2)[-2:]
        assert first_two[1] - first_two[0] > 1e-12, "a tie that float64 cannot decide"
        indices.append(int(np.argmax(nearest)))
    return indices


def incremental(points: Floats, first: int, count: int) -> set[int]:
    """One matrix-vector product for each centre."""
    norms, indices = np.einsum("nd,nd->n", points, points), [first]
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    while len(indices) < count:
        centre = points[indices[-1]]
        np.minimum(nearest, norms + norms[indices[-1]] - 2 * (points @ centre), out=nearest)
        nearest[indices[-1]] = -1
        indices.append(int(np.argmax(nearest)))
    return set(indices)


def naive(points: Floats, first: int, count: int) -> set[int]:
    """All differences for each centre."""
    chosen, nearest = [first], np.full(len(points), np.inf, dtype=np.float32)
    while len(chosen) < count:
        np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1), out=nearest)
        chosen.append(int(np.argmax(nearest)))
    return set(chosen)


def compare(
    points: Floats, centres: int, rounds: int, seed: int, others: dict[str, Callable[..., set[int]]]
) -> list[dict[str, Any]]:
    """The rows of the record: equal choices first, then the times."""
    own = farthest_first(points, FIRST, centres)[0].tolist()
    assert own == wide(points, FIRST, centres), "the choices are not those of float64"
    part = max(2, centres // SHARE)
    same = {name: len({*own[:part]} & choose(points, FIRST, part)) / part for name, choose in others.items()}
    for name, share in same.items():  # a near tie may be decided by rounding, and what follows is then another order
        assert share > 0.95, f"{name} chooses otherwise: {share:.1%} are the same"
    work = {
        "own": lambda _: timed(lambda: farthest_first(points, FIRST, centres)),
        **{name: partial(_shared, choose, points, centres, part) for name, choose in others.items()},
    }
    seconds = interleaved(work, rounds, seed, warm=0)
    return [
        {
            "what": f"k-center greedy, {len(points):,} x {points.shape[1]}, {centres:,} centres",
            "peer": name,
            "own_seconds": middle(seconds["own"]),
            "peer_seconds": middle(seconds[name]),
            "speed": ratio(seconds[name], seconds["own"]),
            "checked": {"as_in_float64": True, "same_choices": round(share, 5)},
        }
        for name, share in same.items()
    ]


def _shared(choose: Callable[..., set[int]], points: Floats, centres: int, part: int, _: int) -> float:
    return timed(lambda: choose(points, FIRST, part)) * centres / part


def million(seed: int) -> dict[str, Any]:
    """The whole selector on a million vectors."""
    with tempfile.TemporaryDirectory() as made:
        settings = {**MILLION, "seed": seed}
        with Contestant(sys.executable, "benchmarks.peers.whole_kcenter", settings, Path(made) / "log") as child:
            found = child.ask(do="select")
    assert found["chosen"] == MILLION["centres"], "each is chosen once"
    sizes = f"{MILLION['points']:,} x {MILLION['width']}, {MILLION['centres']:,} centres"
    return {
        "what": f"the selector, k-means included, {sizes}",
        "peer": None,
        "own_seconds": round(found["seconds"], 1),
        "peak_gib": round(found["peak"] / GIB, 2),
        "checked": {"last_distance": found["last"]},
    }


def in_one_thread() -> None:
    """Starts this process anew unless BLAS, which reads it when numpy is loaded, has one thread."""
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        command = [sys.executable, "-m", "benchmarks.kcenter", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **threads})


def main() -> int:
    """Measures and writes the record."""
    in_one_thread()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--centres", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--public", type=Path, help="folder with checkouts of public implementations")
    parser.add_argument("--million", action="store_true", help="also the whole selector on a million vectors")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    count, width, centres = (8_000, 64, 400) if asked.quick else (50_000, 384, asked.centres)
    others = {
        "one matrix-vector product per centre": incremental, "differences for each centre": naive,
        **(public(asked.public) if asked.public else {}),
    }  # fmt: skip
    rows = compare(clustered(count, width, asked.seed), centres, asked.rounds, asked.seed, others)
    record.without_paths(FOLDER=asked.public)
    if asked.million:
        rows.append(million(asked.seed))
    libraries = record.versions("numpy", "scikit-learn")
    record.write("kcenter", rows, seeds=[asked.seed], quick=asked.quick, rounds=asked.rounds, libraries=libraries)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
