"""Writes docs/results/auto_budget.md from benchmarks/results/auto_budget.json.

python -m benchmarks.auto_budget_page
"""

from __future__ import annotations

import json

from benchmarks.auto_budget_tasks import TASKS
from benchmarks.keeping_words import Row, listed, table
from benchmarks.record import RESULTS
from keeptune.core.files import atomic_write, make_folder
from keeptune.report.words import interval, percent, points, took

RECORD = RESULTS / "auto_budget.json"
PAGE = RESULTS.parent.parent / "docs" / "results" / "auto_budget.md"
HEAD = """\
# What `auto` makes of a budget

```sh
{command}
python -m benchmarks.auto_budget_page    # this page, from the record
```

`keeptune auto DATA --budget forget=5pt` looks for the weight of the KL to the base in short runs, and trains with the
lightest that stays inside what may be lost ([how](../decisions/012-the-hand.md)). Here on pocket, with tasks that it
was not trained on, each row under words that say what is wanted:

{tasks}

`recipe` is the same run with its own weight, at the same rate and under the same guard. One seed each. Intervals are
90%, over items; what was lost is asked with questions that neither choice nor guard had seen. A short run's loss is
the upper end of a one-sided 95% bound, from few questions.
"""


def page(record: Row) -> str:
    """The document."""
    tasks = "\n".join(
        f"- `{name}`: {TASKS[name].says}" for name in dict.fromkeys(row["task"] for row in record["rows"])
    )
    parts = [HEAD.format(command=record["command"], tasks=tasks)]
    for budget in sorted({row["budget"] for row in record["rows"]}):
        rows = [row for row in record["rows"] if row["budget"] == budget]
        parts += [
            f"## {budget} points",
            outcomes(rows),
            "What the short runs saw on dev, and lost at most:",
            short(rows),
        ]
    return "\n\n".join(part.strip("\n") for part in [*parts, verdict(record)]) + "\n"


def lost(outcome: Row) -> tuple[float, float]:
    """The greater of the ability lost and the leak gained, and the greater of their upper ends."""
    parts = outcome["ability"], outcome["leak"]
    return max(part["delta"] for part in parts), max(part["high"] for part in parts)


def outcomes(rows: list[Row]) -> str:
    """A line for each hand of each task."""
    lines = []
    for row in rows:
        for way, weight in (("found", row["weight"]), ("recipe", row["strongest"])):
            found = row[way]
            target = found["target"]
            lines.append([
                row["task"], f"`{way}`", f"{weight:g}", f"{percent(target['base'])} to {percent(target['adapted'])}",
                interval(target), interval(found["ability"]), interval(found["leak"]), found["verdict"],
                "yes" if found["stopped"] else "",
            ])  # fmt: skip
    head = ["task", "hand", "weight", "test rows", "gained", "abilities lost", "leak gained", "certificate", "stopped"]
    return table(head, lines)


def short(rows: list[Row]) -> str:
    """What the choice saw."""
    lines = [
        [row["task"], f"{hand['weight']:g}", percent(hand["target"]), f"{points(hand['lost'], sign=False)} points",
         "yes" if hand["passed"] else "no"]
        for row in rows for hand in row["hands"]
    ]  # fmt: skip
    return table(["task", "weight", "dev", "lost at most", "inside"], lines)


def verdict(record: Row) -> str:
    """How often the budget held, by the certificate."""
    rows = record["rows"]
    held = [lost(row["found"])[0] <= row["budget"] / 100 for row in rows]
    shown = [lost(row["found"])[1] <= row["budget"] / 100 for row in rows]
    minutes = [row["seconds"] / 60 for row in rows if row["seconds"] is not None]
    done = {f"{row['task']} at {row['budget']}" for row in rows}
    missing = [f"`{one}`" for one in record["planned"] if one not in done]
    span = f"{min(minutes):.0f} to {max(minutes):.0f} minutes"
    parts = [
        f"Of {len(rows)} runs {sum(held)} lost no more than their budget, {sum(shown)} of them also at the worse end "
        "of the interval.",
        f"`auto` took {span} from the file to the certificate, beside other work, and the runs with the recipe's own "
        f"weight are not counted: {took(sum(minutes) / 60, record['machine']['processor'])}",
        *([f"Planned and not run: {listed(missing)}."] if missing else []),
    ]
    return "\n\n".join(parts)


def write() -> None:
    """The page."""
    make_folder(PAGE.parent)
    atomic_write(PAGE, page(json.loads(RECORD.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    write()
