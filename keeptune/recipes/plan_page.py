"""The plan as a table on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.core.typed import typed
from keeptune.report.words import percent, seconds

MB = 1e6


def page(result: Mapping[str, Any], name: str, settings: Sequence[str], dtype: str) -> str:
    """The whole plan, a screen of text; `dtype` is that of the weights, and why."""
    machine, advice = result["machine"], result["recommended"]
    lines = ["the recipe's stages", *_table([{**row, "name": label} for label, row in result["recipe"].items()])]
    lines += ["", "every method in the place of the last stage's", *_table(result["methods"], advice["name"])]
    lines += [f"  {row['name']:<22} not planned: {row['reason']}" for row in result["refused"]]
    process = f" beside {_size(machine['process'])} of the process itself" if machine["process"] else ""
    place = "the GPU" if machine["gpu"] else "this machine"
    lines += ["", f"dtype        {dtype}", f"memory       {_size(machine['free'])} can be had on {place}{process}"]
    if not result["fits"]:
        lines.append("             the recipe as it stands does not fit")
    lines += [f"recommended  {advice['name']}: {advice['reason']}", *_proof(result["proof"]), *_power(result["power"])]
    return "\n".join([*lines, "", f"Next: {typed('keeptune', 'run', name, settings=settings)}"])


def _table(rows: list[dict[str, Any]], marked: str = "") -> list[str]:
    head = f"  {'':<22} {'trained':>9} {'state':>9} {'peak':>9} {'time':>9} {'disk':>9}"
    return [head, *(_line(row, row["name"] == marked) for row in rows)]


def _line(row: dict[str, Any], marked: bool) -> str:
    memory = row["memory"]
    sizes = f"{_size(memory['state']):>9} {_size(memory['peak']):>9}"
    time = seconds(60 * row["minutes"])
    share = f"{100 * row['trainable_share']:.2f}%"
    twice, layers = row["layers_twice"]
    notes = f"   {twice} of {layers} layers computed twice" if twice else ""
    notes += "" if row.get("fits", True) else "   does not fit"
    sign = "→" if marked else " "
    return f"{sign} {row['name']:<22} {share:>9} {sizes} {time:>9} {_size(row['disk']['total']):>9}{notes}"


def _size(value: float) -> str:
    """`12 MB`, `3.4 GB`."""
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / MB:,.0f} MB"


def _proof(proof: Mapping[str, Any] | None) -> list[str]:
    if proof is None:
        return []
    written = f", {proof['written']:,} to write" if proof["written"] else ""
    time = seconds(60 * proof["minutes"])
    lines = [f"proof        about {time} beside the training: {proof['read']:,} tokens to read{written}"]
    if proof["uncounted"]:
        lines.append(f"             not counted: {'; '.join(proof['uncounted'])}")
    return lines


def _power(power: Mapping[str, Any] | None) -> list[str]:
    if power is None:
        return []
    harmed = power["harmed"]
    lines = [
        f"proof        suite {power['suite']}: an unharmed model gets its PASS with "
        f"{percent(power['pooled_pass'])} on the mean, {percent(power['every_task_passes'])} on every task"
        f" ({percent(power['assumed_discordance'])} of the items flipping)",
        f"             one that lost twice every margin gets its FAIL with {percent(harmed['pooled_fail'])} on the "
        f"mean, {percent(harmed['some_task_fails'])} on some task",
        "             abilities alone: what corpora and unrelated requests will say depends on the texts",
    ]
    if power["unknown"]:
        lines.append(
            f"             without these, whose items the harness tells when it is asked: {', '.join(power['unknown'])}"
        )
    weak = [name for name, chance in power["tasks"].items() if chance < 0.8]
    if weak or power["pooled_pass"] < 0.8:
        lines.append(
            f"             for 80%: {power['items_for_the_pool']:,} items a task on the mean, "
            f"{power['items_for_each_task']:,} a task on every task"
        )
    wide = {name: power["margins_carried"][name] for name in weak}
    if wide:
        told = ", ".join(f"{name}: {math.ceil(1000 * margin) / 1000:.3f}" for name, margin in wide.items())
        lines.append(f"             or the margins that so few items carry: margins: {{tasks: {{{told}}}}}")
    return lines
