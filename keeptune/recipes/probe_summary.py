"""From finished measurements to the numbers that a probing run reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from keeptune.core.counting import counted
from keeptune.data.probe_tasks import UNSCORED
from keeptune.probes import EPOCHS
from keeptune.recipes.probe_data import LABEL, PARTS, ProbeData
from keeptune.report.words import points
from keeptune.statistics.ratio import ratio_over_seeds

SCHEMA = 1
Row = Mapping[str, Any]


def summary(rows: Sequence[Row], data: ProbeData, models: Sequence[str], task: str) -> dict[str, Any]:
    """Plain data: one result for each model, probe and layer, and the changes between two models.

    Accuracies and selectivities are fractions, means over seeds, with two-sided 90% intervals over texts and, of
    several, seeds (`statistics.ratio`); `seeds` holds each seed's own values.
    """
    ordered = sorted(rows, key=lambda row: (*_place(row), row["seed"]))
    found = [_result(list(group)) for _, group in groupby(ordered, key=_place)]
    found.sort(key=lambda row: (models.index(row["model"]), row["title"], row["layer"]))
    return {
        "schema": SCHEMA,
        "task": task,
        "kind": data.task.kind,
        "classes": list(data.task.classes),
        "models": list(models),
        "texts": {part: len(data.texts[part]) for part in PARTS},
        "units": {part: sum(own != UNSCORED for row in data.task.answers[part] for own in row) for part in PARTS},
        "baseline": baseline(data),
        "versions": {name: version(name) for name in ("keeptune", "torch", "transformers")},
        "rows": found,
        "changes": _changes(rows, models) if len(models) == 2 else [],
    }


def baseline(data: ProbeData) -> float:
    """Accuracy on test without any state: the commonest class of train, or the commonest distance of a head there."""
    edges = data.task.kind == "edges"

    def said(part: str) -> list[int]:
        return [
            own - place * edges
            for row in data.task.answers[part] for place, own in enumerate(row) if own != UNSCORED
        ]  # fmt: skip

    commonest = Counter(said("train")).most_common(1)[0][0]
    test = said("test")
    return test.count(commonest) / len(test)


def _place(row: Row) -> tuple[str, str, int]:
    return row["model"], row["title"], row["layer"]


def _result(rows: Sequence[Row]) -> dict[str, Any]:
    model, title, layer = _place(rows[0])
    asked, own, control = rows[0]["task"]["asked"], _right(rows, "task"), _right(rows, "control")
    first = rows[0]
    sent = first["task"]["bits"] is not None
    return {
        "model": model, "title": title, "layer": layer, "probe": rows[0]["probe"],
        "parameters": rows[0]["task"]["parameters"],
        "accuracy": _interval(own, asked), "control": _interval(control, asked),
        "selectivity": _interval(own - control, asked),
        "bits": first["task"]["bits"],
        "compression": _compression(first, "task") if sent else None,
        "control_compression": _compression(first, "control") if sent else None,
        "epochs": [row["task"]["epochs"] for row in rows],
        "seeds": [
            {"seed": row["seed"], "accuracy": _share(row, "task"), "control": _share(row, "control")} for row in rows
        ],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }  # fmt: skip


def _changes(rows: Sequence[Row], models: Sequence[str]) -> list[dict[str, Any]]:
    """Second model minus first, on the same texts with the same seeds."""
    changes = []
    pairs: dict[tuple[str, int], dict[str, list[Row]]] = {}
    for row in rows:
        pairs.setdefault((row["title"], row["layer"]), {}).setdefault(row["model"], []).append(row)
    for (title, layer), own in sorted(pairs.items()):
        if set(own) != set(models):
            continue
        before, after = (own[name] for name in models)
        asked = before[0]["task"]["asked"]
        gained, learned = (_right(after, which) - _right(before, which) for which in ("task", "control"))
        changes.append({
            "title": title, "layer": layer, "accuracy": _interval(gained, asked),
            "selectivity": _interval(gained - learned, asked),
        })  # fmt: skip
    return changes


def _right(rows: Sequence[Row], which: str) -> np.ndarray[Any, Any]:
    """By seed and text."""
    return np.array([row[which]["right"] for row in rows])


def _interval(right: np.ndarray[Any, Any], asked: Sequence[int]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in ratio_over_seeds(right, asked)._asdict().items()}


def _share(row: Row, which: str) -> float:
    return float(round(sum(row[which]["right"]) / sum(row[which]["asked"]), 6))


def _compression(row: Row, which: str) -> float:
    """Of the seed whose answers were sent, the first."""
    return float(round(row[which]["uniform"] / row[which]["bits"], 3))


def probe_text(result: Mapping[str, Any], page: Path) -> str:
    """A screen of text."""
    texts, units = result["texts"], result["units"]
    lines = [
        f"{result['task']}: {units['test']:,} asked in {counted(texts['test'], 'test text')}, "
        f"learned from {units['train']:,} in {texts['train']:,}; "
        f"{100 * result['baseline']:.1f}% right without any state",
    ]
    for (model, title), group in groupby(result["rows"], key=lambda row: (row["model"], row["title"])):
        lines += [
            "",
            f"{model}, {title}",
            f"  {'layer':>5} {'accuracy':>9} {'control':>8} {'selectivity':>22} {'compression':>12}",
        ]
        for row in group:
            chosen = row["selectivity"]
            span = f"{points(chosen['value'])} ({points(chosen['low'])}, {points(chosen['high'])})"
            shorter = f"{row['compression']:.2f}" if row["compression"] is not None else "–"
            lines.append(
                f"  {row['layer']:>5} {100 * row['accuracy']['value']:>8.1f}% {100 * row['control']['value']:>7.1f}% "
                f"{span:>22} {shorter:>12}"
            )
    if result["changes"]:
        lines += ["", f"{result['models'][1]} minus {result['models'][0]}, points"]
    for row in result["changes"]:
        own, chosen = row["accuracy"], row["selectivity"]
        lines.append(
            f"  {row['title']}, layer {row['layer']}: accuracy {points(own['value'])} ({points(own['low'])}, "
            f"{points(own['high'])}), selectivity {points(chosen['value'])} ({points(chosen['low'])}, "
            f"{points(chosen['high'])})"
        )
    if result["task"] == LABEL:
        lines += [
            "",
            "The control of a whole text goes by its first word, which is easy where few words begin most texts.",
        ]
    capped = sum(epochs == EPOCHS for row in result["rows"] for epochs in row["epochs"])
    if capped:
        lines += [
            "",
            f"{counted(capped, 'probe')} still learned after {EPOCHS} epochs, the most here: more texts help.",
        ]
    seeds = len(result["rows"][0]["seeds"])
    over = "texts" if seeds == 1 else f"texts and {counted(seeds, 'seed')}"
    return "\n".join([*lines, "", f"Intervals are 90%, over {over}. Layer 0 is the embeddings.", f"page  {page}"])
