"""The compiled kernels: made once on a machine, kept in the user's cache, loaded on first use.

The name of the file holds what the result depends on: the sources, the command and the processor's instructions. It is
made under another name, tried, and renamed, so two processes may make it at once and neither reads half of it. Whatever
goes wrong (no compiler, no OpenMP, a full disk, an unreadable cache) means that there are no kernels, never an error.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int64
from pathlib import Path

from keeptune.core.cache import cache_folder
from keeptune.core.files import atomic_write
from keeptune.core.machine import processor_says

SWITCH = "KEEPTUNE_KERNELS"
"""Set to 0, this variable leaves the kernels out."""
COMPILERS = ("cc", "gcc", "clang")
FLAGS = "-O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC".split()
WIDE_REGISTERS = ["-mprefer-vector-width=512"]
"""For x86, where compilers use half of the widest registers unless they are told otherwise."""
SECONDS = 60


def loaded(agree: Callable[[ctypes.CDLL], bool], flags: Sequence[str] = ()) -> ctypes.CDLL | None:
    """The kernels; None where there are none.

    Args:
        agree: whether new ones compute what they should. Those that do not are never asked for again.
        flags: of the compiler, besides those of all kernels.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        path = _made(cache_folder() / "kernels", agree, flags)
        return None if path is None else _open(path)
    except (OSError, subprocess.SubprocessError):
        return None


def sources() -> list[Path]:
    """The files in C."""
    return sorted(Path(__file__).parent.glob("*.c"))


def command(compiler: str, flags: Sequence[str] = ()) -> list[str]:
    """What compiles them, without the name of the result."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return [compiler, *FLAGS, *(WIDE_REGISTERS if x86 else []), *flags, *map(str, sources()), "-lm"]


def _made(folder: Path, agree: Callable[[ctypes.CDLL], bool], flags: Sequence[str]) -> Path | None:
    """The compiled file, from the cache or new; None when it does not agree, which an empty file says next time.

    Raises:
        OSError: no compiler, or the cache cannot be written.
        subprocess.SubprocessError: the compiler failed.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    path = folder / f"{_fingerprint(compiler, flags)}.so"
    if not _whole(path):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as room:
            fresh = Path(room) / path.name
            made = [*command(compiler, flags), "-o", str(fresh)]
            subprocess.run(made, check=True, capture_output=True, timeout=SECONDS)
            content = fresh.read_bytes() if agree(_open(fresh)) else b""
            atomic_write(path, content + _seal(content))
    return path if path.stat().st_size > len(_seal(b"")) else None


def _whole(path: Path) -> bool:
    """Whether it ends in the digest of the rest: a library that was cut short kills the process that loads it."""
    if not path.exists():
        return False
    content, size = path.read_bytes(), len(_seal(b""))
    return _seal(content[:-size]) == content[-size:]


def _seal(content: bytes) -> bytes:
    """What stands behind the content; loaders do not look there."""
    return hashlib.sha256(content).digest()


def _fingerprint(compiler: str, flags: Sequence[str]) -> str:
    """Of all that the result depends on; paths of the sources are not part of it."""
    of = hashlib.sha256(" ".join([os.path.realpath(compiler), *FLAGS, *WIDE_REGISTERS, *flags]).encode())
    for path in [*sources(), *sorted(Path(__file__).parent.glob("*.h"))]:
        of.update(path.read_bytes())
    of.update(_instructions().encode())
    return of.hexdigest()[:32]


def _instructions() -> str:
    """What the processor can do, as the kernel of the system tells it."""
    return f"{platform.machine()} {processor_says('flags', 'Features')}"


def _open(path: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path))
    found.calls.argtypes, found.calls.restype = (c_char_p, c_int64), c_int64
    return found
