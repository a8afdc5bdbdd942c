"""Builds the environments of the peers: one virtual environment per version, so that none bends another.

    python -m benchmarks.peers.build                 # all, below ~/.cache/keeptune/peers
    python -m benchmarks.peers.build --only trl-1.14 # one
    KEEPTUNE_PEERS=DIR python -m benchmarks.peers.build

TRL 1.15 is left out: its loss head needs Triton, and without a GPU the first step fails. 1.16 trains on a CPU again;
1.14.2 and 1.9.2 are the versions before, which have a compact loss there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
PEERS = {
    "trl-1.16": [TORCH, "trl==1.16.0", "peft==0.21.2", "transformers==5.23.0"],
    "trl-1.14": [TORCH, "trl==1.14.2", "peft==0.21.2", "transformers==5.23.0"],
    "trl-harness": [TORCH, "trl==1.14.2", "peft==0.21.2", "transformers==5.23.0", "lm-eval==0.4.13"],
    "trl-1.9": [TORCH, "trl==1.9.2", "peft==0.21.2", "transformers==4.57.6"],
}


def folder() -> Path:
    """Where the environments stand: `KEEPTUNE_PEERS`, or the user's cache."""
    named = os.environ.get("KEEPTUNE_PEERS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "keeptune" / "peers"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment.

    Raises:
        SystemExit: it was not built.
    """
    found = folder() / peer / "bin" / "python"
    if not (folder() / peer / ".whole").exists():
        raise SystemExit(f"The peer '{peer}' is not installed. Run: python -m benchmarks.peers.build --only {peer}")
    return found


def build(peer: str) -> None:
    """Makes one environment; a whole one is left as it is, a half-made one is begun anew."""
    place = folder() / peer
    whole = place / ".whole"
    if whole.exists() and whole.read_text(encoding="utf-8").split() == PEERS[peer]:
        print(f"{peer}: there already")
        return
    venv.create(place, with_pip=True, clear=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PEERS[peer]], check=True)
    whole.write_text("\n".join(PEERS[peer]), encoding="utf-8")
    print(f"{peer}: built")


def main() -> int:
    """Builds what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=sorted(PEERS), action="append", help="this one; may be repeated")
    for peer in parser.parse_args().only or PEERS:
        build(peer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
