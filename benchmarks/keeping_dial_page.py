"""Writes docs/results/keeping_dial.md and its pictures from benchmarks/results/keeping_dial.json.

python -m benchmarks.keeping_dial_page
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.keeping_pictures import BOTTOM, LEFT, RIGHT, TOP, alone, ground, legend, percent, placing
from benchmarks.keeping_words import Row, kept, listed, losses, reading, table
from benchmarks.record import RESULTS
from keeptune.core.files import atomic_write, make_folder
from keeptune.report import svg
from keeptune.report.words import points

DOCS = RESULTS.parent.parent / "docs" / "results"
RECORD, PAGE = RESULTS / "keeping_dial.json", DOCS / "keeping_dial.md"
TASKS = {
    "embedded": "The embedded task",
    "fresh": "Some of them on other rows of the embedded task",
    "trec": "Kinds of questions (TREC, six labels), with words that say what is wanted",
    "trec_bare": "The same questions, bare",
}
BUDGETS = (0.02, 0.05, 0.1, 0.2)


def page(record: Row) -> str:
    """The document."""
    parts = [_head(record)]
    for task, found in record["tasks"].items():
        parts += [_task(record, task, found)]
    return "\n\n".join([*parts, _end(record)]) + "\n"


def drawn(record: Row) -> dict[str, str]:
    """The pictures by name."""
    return {picture(task): plane(record, task) for task in record["tasks"]}


def picture(task: str) -> str:
    """The picture of a task."""
    return f"keeping_dial_{task}.svg"


def rows_of(record: Row, task: str) -> dict[str, Row]:
    """The rows of a task by arm."""
    return {row["arm"]: row for row in record["rows"] if row["task"] == task}


def plane(record: Row, task: str) -> str:
    """Score on the task against what was kept: a line for each dial, from its strongest hand to its lightest."""
    rows, base, ends = rows_of(record, task), record["tasks"][task]["base"], ("value", "low", "high")
    xs = [base["target"], *(row["target"][end] for row in rows.values() for end in ends)]
    across, up = svg.Axis(*svg.around(xs), LEFT, RIGHT), svg.Axis(_floor(rows), 1.02, BOTTOM, TOP)

    place, placed = placing(across, up)
    parts = ground(across, up, base["target"], 1.0, "base")
    for index, dial in enumerate(record["dials"].values()):
        there = [(value, rows[arm]) for value, arm in zip(dial["values"], dial["arms"], strict=True) if arm in rows]
        parts += [svg.path([place(row) for _, row in there], f"series-{index % 4} thin")]
        for value, row in there:
            x, y = place(row)
            parts += [*placed(row, index), svg.text(x - 8, y + 17, f"{value:g}", anchor="end")]
        parts += legend(index, dial["name"])
    if "sft" in rows:
        x, y = place(rows["sft"])
        share = 1 - rows["sft"]["forgotten"]["value"]
        if share < up.low:
            parts += [svg.text(x, BOTTOM - 8, f"↓ sft, {points(share, sign=False)}% kept", anchor="middle")]
        else:
            parts += [*placed(rows["sft"], len(record["dials"])), svg.text(x - 8, y - 9, "sft", anchor="end")]
    parts += svg.bottom_axis(percent(across), BOTTOM, "score on the task, % of test rows", "{:g}")
    parts += svg.left_axis(percent(up), LEFT, "kept, %", "{:g}")
    return alone("What each place of a dial kept against its score on the task", parts)


def _floor(rows: Row) -> float:
    """Where the axis of the share kept begins: at nothing, unless all but plain tuning keep more than half."""
    least = min((1 - row["forgotten"]["high"] for name, row in rows.items() if name != "sft"), default=0.0)
    return least - 0.04 if least > 0.5 else -0.02


def _head(record: Row) -> str:
    dials = "\n".join(
        f"- **{dial['name']}** (`{dial['recipe']}`): {dial['says']}; {listed([f'{one:g}' for one in dial['values']])}."
        for dial in record["dials"].values()
    )
    return f"""# How strong a hand? The dial between learning and keeping

```sh
{record["command"]}
python -m benchmarks.keeping_dial_page    # this page, from the record
```

A strong hand keeps everything and teaches little; a light one the other way round. Here the hand is a setting that is
turned, and everything else stays: pocket, the tokens drawn, each recipe's own rate. What is replayed is the base's own
text. What is turned was fixed before a score was seen, but for *LoRA, KL on a fifth*, which was added when full tuning
with such a KL had been seen. The later tables have fewer arms: the second those that stood out in the first, TREC's
what the clock allowed.

{dials}

Intervals are 90%, over clusters of items and seeds, the few seeds stretched ([statistics](../statistics.md)). *Kept* is
100% minus the greater of the ability lost and of the unrelated requests that are answered with a label."""


def _task(record: Row, task: str, found: Row) -> str:
    rows, base = rows_of(record, task), found["base"]
    seeds = next(iter(rows.values()))["seeds"]
    lines = [
        [f"`{row['arm']}`", reading(row["target"], sign=False, unit="%"), kept(row["forgotten"]), *losses(row)]
        for row in rows.values()
    ]
    head = ["arm", "task", "kept", "abilities lost", "format leak gained", "bits per byte"]
    leaks, left = found["leaks"], [f"`{arm}`" for arm in found["planned"] if arm not in rows]
    missing = f"\n\nPlanned and not run, or not with every seed: {listed(left)}." if left else ""
    return f"""## {TASKS[task]}

{found["steps"]} steps of {found["batch_tokens"]:,} tokens, seeds {listed(seeds)}; {base["target_rows"]} test rows,
of which the base has {points(base["target"], sign=False)}%; {base["questions"]} questions of abilities. Of
{base["requests"]} unrelated requests {found["questions_of_requests"]} are questions; of the {leaks["all"]:,.0f} that
were answered with a label, in all arms but `sft`, {leaks["of_questions"]:,.0f} were.

![score on the task against what was kept]({picture(task)})

{table(head, lines)}

{_budgets(list(rows.values()))}{missing}"""


def _budgets(rows: Sequence[Row]) -> str:
    """The highest score whose loss, at the worse end of its interval, is within a budget."""
    lines = []
    for budget in BUDGETS:
        within = [row for row in rows if row["forgotten"]["high"] <= budget]
        best = max(within, key=lambda row: row["target"]["value"], default=None)
        shown = ["none", "", ""] if best is None else [
            f"`{best['arm']}`", reading(best["target"], sign=False, unit="%"), kept(best["forgotten"]),
        ]  # fmt: skip
        lines.append([f"{points(budget, sign=False)} points", *shown])
    return f"""The highest score among the arms whose loss stays within a budget at the worse end of its interval. The
arm is chosen by the rows that score it, so that its score is somewhat flattered:

{table(["budget", "arm", "task", "kept"], lines)}"""


def _end(record: Row) -> str:
    arms = "\n".join(
        f"- `{name}`: recipe `{base}`{''.join(f', `{setting}`' for setting in settings)}"
        for name, (base, settings) in record["arms"].items()
    )
    hours = sum(row["seconds"] for row in record["rows"]) / 3600
    return f"""## Every arm

{arms}

{hours:.1f} hours of training and measuring beside other work, on {record["machine"]["processor"]}."""


def main() -> None:
    """Writes the page and the pictures."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    make_folder(DOCS)
    atomic_write(PAGE, page(record))
    for name, text in drawn(record).items():
        atomic_write(DOCS / name, text)


if __name__ == "__main__":
    main()
