"""`keeptune data build`: task sets to instructions, by a plan in YAML; every row is counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from keeptune.core.counting import counted
from keeptune.core.disk import prepare_output
from keeptune.core.errors import DataError
from keeptune.core.files import atomic_write
from keeptune.core.spec import validate
from keeptune.core.typed import typed
from keeptune.data.build import HELD_OUT, BuildPlan, build_source
from keeptune.recipes.overrides import with_overrides
from keeptune.recipes.yaml_file import read_yaml

LEFT_OUT = {"few answers": "with too few answers", "opens alike": "that open like another"}


def build_file(plan_file: Path, output: Path, settings: list[str]) -> dict[str, Any]:
    """Builds what the plan says and writes it as JSON Lines.

    Args:
        plan_file: YAML, see `BuildPlan`.
        output: for the rows.
        settings: `a.b=c` replacements in the plan.

    Raises:
        RecipeError: the plan is wrong, or `output` exists.
        DataError: a file cannot be read, or a task gives nothing (E-BUILD-NOTHING).
    """
    prepare_output(output)
    plain, lines = read_yaml(plan_file)
    plan: BuildPlan = validate(BuildPlan, with_overrides(plain or {}, settings), file=str(plan_file), lines=lines)
    written: list[str] = []
    held = 0
    tasks: dict[str, dict[str, int]] = {}
    for name in (*plan.tasks, *plan.conversations):
        counts: Counter[str] = Counter()
        made = list(build_source(name, plan, plan_file.parent, counts))
        held += sum(row["split"] == HELD_OUT for row in made)
        rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in made]
        if not rows:
            reasons = ", ".join(f"{key[4:]} {value:,}" for key, value in counts.items() if key.startswith("bad "))
            raise DataError(
                f"'{name}' gives no rows; {counts['read']:,} were read.", code="E-BUILD-NOTHING",
                where={"file": plan_file, "key": name}, why=f"Refused: {reasons}." if reasons else "",
                fix="Name the columns of a task: columns: {text: COLUMN, label: COLUMN}.",
            )  # fmt: skip
        written += rows
        tasks[name] = dict(counts)
    atomic_write(output, "".join(written))
    result = {"output": str(output), "rows": len(written), "held_out": held, "tasks": tasks}
    return {**result, "text": _text(result, plan)}


def _kind(plan: BuildPlan, name: str) -> str:
    return plan.tasks[name].kind if name in plan.tasks else plan.conversations[name].kind


def _text(result: dict[str, Any], plan: BuildPlan) -> str:
    lines = [f"  {'task':<24} {'kind':<16} {'read':>8} {'bad':>6} {'over cap':>9} {'built':>8}  rows of each template"]
    for name, counts in result["tasks"].items():
        kind = _kind(plan, name)
        used = sorted((int(key[9:]), value) for key, value in counts.items() if key.startswith("template "))
        spread = " ".join(f"{number}:{value}" for number, value in used)
        row = "".join(
            f" {counts.get(key, 0):>{width},}" for key, width in (("read", 8), ("bad", 6), ("over the cap", 9))
        )
        mark = "   held out" if kind in plan.hold_out else ""
        lines.append(f"  {name:<24} {kind:<16}{row} {counts['built']:>8,}  {spread}{mark}".rstrip())
        left = [f"{counts[key]:,} {said}" for key, said in LEFT_OUT.items() if counts.get(key)]
        lines += [f"    left out: {', '.join(left)}"] if left else []
    held = f"{result['held_out']:,} of them `split: test`"
    lines.append(f"\n{counted(result['rows'], 'row')} written to {result['output']}, {held}")
    return "\n".join([*lines, f"\nNext: {typed('keeptune', 'init', result['output'])}"])
