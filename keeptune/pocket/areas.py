"""The library areas of the embedded task: which installed packages document which area.

An area's `known` places give the training, dev and test rows; its `unseen` places, other packages about the same
thing, give the out-of-distribution rows. The suite leaves all of them out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Area:
    """One label with the places (see `harvest.source_files`) that it names."""

    label: str
    known: tuple[str, ...]
    unseen: tuple[str, ...]


def _stdlib(names: str) -> tuple[str, ...]:
    return tuple(f"stdlib/{name}" for name in names.split())


AREAS: tuple[Area, ...] = (
    Area(
        "files",
        _stdlib(
            "os pathlib shutil tarfile zipfile tempfile glob fnmatch filecmp fileinput posixpath ntpath genericpath "
            "gzip bz2 lzma io _pyio stat mailbox zipimport"
        ),
        ("fsspec", "filelock"),
    ),
    Area("geometry", ("sympy/geometry",), ("scipy/spatial",)),
    Area(
        "graphs",
        ("networkx/algorithms", "networkx/classes", "networkx/generators"),
        ("torch/fx", "scipy/sparse/csgraph"),
    ),
    Area("matrices", ("scipy/linalg", "scipy/sparse/linalg", "numpy/linalg"), ("sympy/matrices", "mpmath/matrices")),
    Area("models", ("transformers/models",), ("peft/tuners", "torch/nn/modules")),
    Area(
        "network",
        _stdlib(
            "http urllib socket ftplib smtplib imaplib poplib nntplib telnetlib xmlrpc socketserver ssl wsgiref "
            "asyncio ipaddress cgi selectors"
        ),
        (
            "httpx",
            "httpx2",
            "httpcore",
            "httpcore2",
            "h11",
            "anyio",
            "requests",
            "urllib3",
            "huggingface_hub/inference",
        ),
    ),
    Area("polynomials", ("sympy/polys",), ("numpy/polynomial",)),
    Area("signals", ("scipy/signal", "scipy/fft"), ("transformers/audio_utils", "numpy/fft", "scipy/fftpack")),
    Area("statistics", ("scipy/stats",), ("sympy/stats", "torch/distributions", "stdlib/statistics")),
    Area(
        "tables",
        (
            "pandas/core/frame",
            "pandas/core/series",
            "pandas/core/generic",
            "pandas/core/groupby",
            "pandas/core/reshape",
            "pandas/core/indexing",
            "pandas/core/internals",
        ),
        ("datasets/arrow_dataset", "datasets/dataset_dict", "datasets/table", "datasets/iterable_dataset", "pyarrow"),
    ),
    Area("terminal", ("rich", *_stdlib("argparse optparse curses cmd getopt pdb")), ("click", "typer", "tqdm")),
    Area(
        "testing",
        ("stdlib/unittest", "stdlib/doctest", "transformers/testing_utils", "torch/testing/_comparison"),
        ("numpy/testing", "pandas/_testing", "sympy/testing", "accelerate/test_utils"),
    ),
)
LABELS: tuple[str, ...] = tuple(area.label for area in AREAS)
PLACES: tuple[str, ...] = tuple(place for area in AREAS for place in (*area.known, *area.unseen))
