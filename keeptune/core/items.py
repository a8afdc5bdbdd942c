"""The items of every evaluation (`items.jsonl.gz`, one item a line) and the scores over them (`scores.json`)."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from keeptune.core.files import atomic_write, json_bytes, read_json, write_json
from keeptune.core.score import Item, Score

ITEMS = "items.jsonl.gz"
SCORES = "scores.json"


def write_scores(folder: Path, label: str, scores: Sequence[Score]) -> None:
    """Replaces what is stored under `label`; other labels stay. Both files are replaced atomically."""
    others = [row for row in _rows(folder) if row["checkpoint"] != label]
    own = [
        {**item.to_dict(), "checkpoint": label, "metric": score.metric, "kind": score.kind}
        for score in scores
        for item in score.items
    ]
    text = b"".join(json_bytes(row) for row in [*others, *own])
    heads = _heads(folder)
    heads[label] = [_head(score) for score in scores]
    atomic_write(folder / ITEMS, gzip.compress(text, compresslevel=6, mtime=0))
    write_json(folder / SCORES, heads)


def read_scores(folder: Path, label: str) -> list[Score]:
    """The scores under `label` with their items; empty when there are none, or when a crash left only some items."""
    items: dict[tuple[str, ...], list[Item]] = {}
    for row in _rows(folder):
        if row["checkpoint"] == label:
            items.setdefault((row["task"], row["metric"], row["kind"]), []).append(Item.from_dict(row))
    scores = []
    for head in _heads(folder).get(label, []):
        own = tuple(items.get((head["task"], head["metric"], head["kind"]), ()))
        if len(own) != head["items"]:
            return []
        plain = {**head, "value": float(head["value"]), "standard_error": float(head["standard_error"]), "items": own}
        scores.append(Score(**plain))
    return scores


def _head(score: Score) -> dict[str, Any]:
    plain = {field.name: getattr(score, field.name) for field in fields(score) if field.name != "items"}
    return {**plain, "items": len(score.items)}


def _heads(folder: Path) -> dict[str, list[Mapping[str, Any]]]:
    try:
        heads = read_json(folder / SCORES)
    except (FileNotFoundError, ValueError):
        return {}
    return heads if isinstance(heads, dict) else {}


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Every stored item; none when the file is damaged, so that all are measured again."""
    path = folder / ITEMS
    if not path.exists():
        return []
    try:
        with gzip.open(path, "rb") as file:
            return [json.loads(line) for line in file]
    except (OSError, EOFError, ValueError, zlib.error):
        return []
