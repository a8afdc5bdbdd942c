"""The page of a probing run: what each layer holds, and how much of it the probe made up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeptune.core.counting import counted
from keeptune.report.html import Markup, element, table
from keeptune.report.page import document
from keeptune.report.probe_curves import layer_curves, selectivity_plane, series_of
from keeptune.report.words import number, points

LEAD = (
    "A probe answers the task from a layer's frozen states. Its control task asks for answers that were drawn at "
    "random for each word type: a probe that answers it well learns by heart. Selectivity is the difference."
)


def probe_page(result: Mapping[str, Any]) -> str:
    """The whole page as text, from `probe.json`."""
    series = series_of(result["rows"], result["models"])
    texts, units = result["texts"], result["units"]
    asked = "heads" if result["kind"] == "edges" else counted(len(result["classes"]), "label")
    seeds = len(result["rows"][0]["seeds"])
    over = "texts" if seeds == 1 else f"texts and {counted(seeds, 'seed')}"
    facts = (
        f"{asked}, {counted(units['test'], 'answer')} in {counted(texts['test'], 'test text')}, learned from "
        f"{units['train']:,} in {texts['train']:,}. Without any state "
        f"{points(result['baseline'], sign=False)}% are right. "
        f"Intervals are 90%, over {over}."
    )
    body = [
        element("p", f"Probes of {' and '.join(result['models'])}", class_="kicker"),
        element("h1", _headline(result)),
        element("p", LEAD, class_="lead"),
        element("p", facts, class_="note"),
        element("h2", "Accuracy by layer"),
        layer_curves(series, "accuracy", "accuracy, %", "Accuracy by layer, one curve for each probe"),
        element("h2", "Selectivity by layer"),
        layer_curves(series, "selectivity", "selectivity, points", "Selectivity by layer, one curve for each probe"),
        element("h2", "Selectivity against accuracy"),
        selectivity_plane(series),
        element("h2", "The numbers"),
        _numbers(result),
        [element("h2", f"{result['models'][1]} minus {result['models'][0]}"), _changes(result)]
        if result["changes"] else None,
    ]  # fmt: skip
    return document(f"keeptune probe: {result['task']}", body)


def _headline(result: Mapping[str, Any]) -> str:
    best = max(result["rows"], key=lambda row: row["accuracy"]["value"])
    return (
        f"{result['task']} is read best from layer {best['layer']} ({best['title']}): "
        f"{points(best['accuracy']['value'], sign=False)}% right, "
        f"{points(best['selectivity']['value'])} points above its control task"
    )


def _numbers(result: Mapping[str, Any]) -> Markup:
    head: list[object] = [
        "model", "probe", "layer", "accuracy, %", "control, %", "selectivity, points", "codelength, kbit",
        "compression", "control's",
    ]  # fmt: skip
    rows: list[list[object]] = []
    for row in result["rows"]:
        own, chosen = row["accuracy"], row["selectivity"]
        rows.append([
            row["model"], row["title"], row["layer"],
            f"{points(own['value'], sign=False)} ({points(own['low'], sign=False)}, {points(own['high'], sign=False)})",
            points(row["control"]["value"], sign=False),
            f"{points(chosen['value'])} ({points(chosen['low'])}, {points(chosen['high'])})",
            number(None if row["bits"] is None else row["bits"] / 1000, 1), number(row["compression"], 2),
            number(row["control_compression"], 2),
        ])  # fmt: skip
    return table(head, rows, numeric=frozenset(range(2, 9)))


def _changes(result: Mapping[str, Any]) -> Markup:
    rows: list[list[object]] = [
        [row["title"], row["layer"]]
        + [f"{points(row[what]['value'])} ({points(row[what]['low'])}, {points(row[what]['high'])})"
           for what in ("accuracy", "selectivity")]
        for row in result["changes"]
    ]  # fmt: skip
    return table(["probe", "layer", "accuracy, points", "selectivity, points"], rows, numeric=frozenset({1, 2, 3}))
