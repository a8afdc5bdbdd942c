"""What `keeptune check` holds and takes of a file that does not fit into a trainer's memory.

    python -m benchmarks.check_stream            # 10,000, 100,000 and 1,000,000 rows of some 200 tokens
    python -m benchmarks.check_stream --quick    # 1,000 and 2,000; prints, writes nothing

Each size is checked once, in a process of its own that reads the file as a user's would. The peak is the highest
resident size of that process, libraries and model in it; the file lies on the disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.check import write_rows
from benchmarks.peers.pipe import Contestant

SPANS = ((14, 42), (27, 111))
"""Words asked and answered: some 200 tokens a row."""
MIB = 1 << 20


def stream(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """The row of one size."""
    path = write_rows(folder, count, seed, SPANS)
    size = path.stat().st_size
    with Contestant(sys.executable, "benchmarks.peers.whole_check", {"folder": str(folder)}, folder / "log") as child:
        found = child.ask(do="check")
    assert found["kept"] == count, "every row is one that can be trained on"
    return {
        "what": f"check of {count:,} rows, {found['tokens']:,} tokens, {size / MIB:,.0f} MiB",
        "own_seconds": round(found["seconds"], 1),
        "own_rows": round(count / found["seconds"]),
        "peak_mib": round(found["peak"] / MIB),
        "checked": {"kept": found["kept"], "tokens": found["tokens"], "bytes": size},
    }


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    found = []
    for count in [1_000, 2_000] if asked.quick else asked.rows:
        with tempfile.TemporaryDirectory() as made:
            found.append(stream(Path(made), count, asked.seed))
    record.write("check_stream", found, seeds=[asked.seed], quick=asked.quick)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
