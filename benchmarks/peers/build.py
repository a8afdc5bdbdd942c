"""Builds the environments of the peers: one virtual environment per version, so that none bends another.

    python -m benchmarks.peers.build                 # all, below ~/.cache/keeptune/peers; for a GPU where there is one
    python -m benchmarks.peers.build --only trl-1.14 # one
    KEEPTUNE_PEERS=DIR python -m benchmarks.peers.build

TRL 1.15 is left out: its loss head needs Triton, and without a GPU the first step fails. 1.16 trains on a CPU again;
1.14.2 and 1.9.2 are the versions before, which have a compact loss there.

For a GPU: the newest TRL with Liger's kernels, and Unsloth with the newest TRL and transformers that it takes. A
machine that cannot install anything uses what the interpreter of the command has (`interpreter`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

TORCH = "torch==2.13.0"
PEERS = {
    "trl-1.16": [TORCH, "trl==1.16.0", "peft==0.21.2", "transformers==5.23.0"],
    "trl-1.14": [TORCH, "trl==1.14.2", "peft==0.21.2", "transformers==5.23.0"],
    "trl-harness": [TORCH, "trl==1.14.2", "peft==0.21.2", "transformers==5.23.0", "lm-eval==0.4.13"],
    "trl-1.9": [TORCH, "trl==1.9.2", "peft==0.21.2", "transformers==4.57.6"],
}
GPU_PEERS = {
    "trl-gpu": [TORCH, "trl==1.16.0", "peft==0.21.2", "transformers==5.23.0", "liger-kernel==0.8.5"],
    "unsloth": [
        "unsloth==2026.10.9",
        "unsloth_zoo==2026.10.9",
        "trl==1.15.0",
        "peft==0.21.2",
        "transformers==5.17.0",
    ],
}
ALL = {**PEERS, **GPU_PEERS}


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


def interpreter(peer: str, packages: Sequence[str]) -> Path | None:
    """The interpreter of a peer's environment, or the running one, whichever first has all `packages`; None: neither.

    Args:
        peer: a key of `ALL`.
        packages: names to import.
    """
    built = folder() / peer
    places = [built / "bin" / "python"] if (built / ".whole").exists() else []
    found = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))"
    for python in [*places, Path(sys.executable)]:
        if subprocess.run([python, "-c", found, *packages], check=False).returncode == 0:
            return python
    return None


def build(peer: str) -> None:
    """Makes one environment; a whole one is left as it is, a half-made one is begun anew."""
    place = folder() / peer
    whole = place / ".whole"
    if whole.exists() and whole.read_text(encoding="utf-8").split() == ALL[peer]:
        print(f"{peer}: there already")
        return
    venv.create(place, with_pip=True, clear=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *ALL[peer]], check=True)
    whole.write_text("\n".join(ALL[peer]), encoding="utf-8")
    print(f"{peer}: built")


def main() -> int:
    """Builds what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=sorted(ALL), action="append", help="this one; may be repeated")
    import torch

    for peer in parser.parse_args().only or (ALL if torch.cuda.is_available() else PEERS):
        build(peer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
