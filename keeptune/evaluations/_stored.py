"""Scores measured once: kept under a digest of everything that decides them, and checked when they are read."""

from __future__ import annotations

import gzip
import hashlib
import json
import platform
import zlib
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.claim import claimed
from keeptune.core.digest import digest_of
from keeptune.core.files import atomic_write, json_bytes, make_folder
from keeptune.core.score import Item, Score
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._numbers import refuse_without_numbers


def measure_once(evaluation: Evaluation, checkpoint: Checkpoint, context: Context) -> list[Score]:
    """The scores of an evaluation, from the context's cache where they stand there.

    The key holds the evaluation's settings, what it reads, the checkpoint's files, the seed, our code and the
    libraries: whatever could change a number. A file that does not match its own digest is measured again. Where
    another process is measuring the same, its scores are waited for.

    Raises:
        ModelError: the base gives no numbers (E-MODEL-NUMBERS).
    """
    scores = measure_unless_claimed(evaluation, checkpoint, context, wait=True)
    assert scores is not None, "who waits gets the claim"
    return scores


def measure_unless_claimed(
    evaluation: Evaluation, checkpoint: Checkpoint, context: Context, *, wait: bool
) -> list[Score] | None:
    """As `measure_once`; None, unless told to wait, while another process measures the same."""
    subject = context.subject(checkpoint)
    if context.cache is None or not subject.files:
        return _measured(evaluation, checkpoint, context)
    reads = evaluation.reads(context)
    key = digest_of(
        [evaluation.to_dict(), reads, subject.identity(), context.seed, code_revision(), _place(subject.model)]
    )
    path = context.cache / f"{key}.json.gz"
    stored = _read(path)
    if stored is not None:
        return stored
    make_folder(path.parent)
    with claimed(path, wait=wait) as mine:
        if not mine:
            return None
        scores = _read(path)
        if scores is None:
            scores = _measured(evaluation, checkpoint, context)
            _write(path, scores)
    return scores


def _measured(evaluation: Evaluation, checkpoint: Checkpoint, context: Context) -> list[Score]:
    scores = evaluation.measure(checkpoint, context)
    refuse_without_numbers(scores, checkpoint, context.base)
    return scores


@cache
def code_revision() -> str:
    """Digest of the source that turns a model into scores."""
    package = Path(__file__).parent.parent
    return digest_of(
        [folder_digest_of_sources(package / part) for part in ("data", "engine", "evaluations", "methods")]
    )


def folder_digest_of_sources(folder: Path) -> str:
    """Digest of the Python files below a folder."""
    files = sorted(folder.rglob("*.py"))
    return digest_of([[str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])


def _place(model: object) -> list[str]:
    """Where it is computed: another device, thread count or library may move the last bits."""
    import torch
    import transformers

    device = str(getattr(model, "device", "cpu"))
    return [device, str(torch.get_num_threads()), platform.machine(), torch.__version__, transformers.__version__]


def _write(path: Path, scores: list[Score]) -> None:
    payload = [asdict(score) for score in scores]
    text = json_bytes({"digest": digest_of(json.loads(json_bytes(payload))), "scores": payload})
    atomic_write(path, gzip.compress(text, compresslevel=6, mtime=0))


def _read(path: Path) -> list[Score] | None:
    try:
        stored = json.loads(gzip.decompress(path.read_bytes()))
        if stored["digest"] != digest_of(stored["scores"]):
            return None
        return [_score(plain) for plain in stored["scores"]]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error):
        return None


def _score(plain: dict[str, Any]) -> Score:
    numbers = {name: float(plain[name]) for name in ("value", "standard_error")}
    return Score(**{**plain, **numbers, "items": tuple(Item.from_dict(item) for item in plain["items"])})
