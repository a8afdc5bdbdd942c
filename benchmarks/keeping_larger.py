"""The part of the page on keeping that rests on twice the tokens, from benchmarks/results/keeping_plane.json."""

from __future__ import annotations

from benchmarks import keeping_pictures as pictures
from benchmarks.keeping_form import looks, matched
from benchmarks.keeping_words import Row, kept, listed, losses, reading, share, table
from keeptune.report.words import points

PLANE, CURVES = "keeping_plane_larger.svg", "keeping_curves_larger.svg"


def section(record: Row) -> str:
    """Plane, equal score, curves."""
    parts = [_head(record), _plane(record)]
    parts += [_equal(record)] if any(record["matched"].values()) else []
    parts += [f"![format leak and task score in training]({CURVES})\n\n{looks(record)}"] if record["curves"] else []
    parts += [_seeds_part(record)] if record["gates"] else []
    return "\n\n".join([*parts, _spent(record)])


def drawn(record: Row) -> dict[str, str]:
    """The pictures by name."""
    made = {PLANE: pictures.plane(record["plane"], record["base"], _gentle(record))}
    if record["curves"]:
        made[CURVES] = pictures.curves(record["curves"], record["tokens"])
    return made


def _head(record: Row) -> str:
    start = points(record["base"]["target"], sign=False)
    return f"""## Twice the tokens

```sh
{record["command"]}
```

ProMoT gives half of its tokens to the prompt and the keep recipe half to replay; the runs above had too few for recipes
that share them. So the same with twice as many, {record["tokens"]:,} a run, fixed before a score was seen
(`{record["settings"][0]}`, the rest as above; the base has {start}% of these test rows). Intervals are 90%, over
clusters of items and seeds, the few seeds stretched as in [statistics](../statistics.md); no share goes beyond 0 or
100%."""


def _plane(record: Row) -> str:
    rows = [
        [f"`{row['arm']}`", f"{row['rate']:g}", str(len(row["seeds"])), reading(row["target"], sign=False, unit="%"),
         kept(row["forgotten"]), *losses(row)]
        for row in [*record["plane"], *_gentle(record)]
    ]  # fmt: skip
    start = record["base"]["target"]
    idle = [f"`{row['arm']}`" for row in record["plane"] if row["target"]["low"] <= start]
    note = f"On the task not told apart from the base: {', '.join(idle)}." if idle else (
        "Each recipe at its own rate has learned: none has an interval that reaches down to the base's "
        f"{points(start, sign=False)}%."
    )  # fmt: skip
    head = [
        "recipe",
        "times its rate",
        "seeds",
        "task",
        "kept",
        "abilities lost",
        "format leak gained",
        "bits per byte",
    ]
    return f"![score on the task against what was kept]({PLANE})\n\n{table(head, rows)}\n\n{note}"


def _equal(record: Row) -> str:
    own = sorted(row["rate"] for row in record["rows"] if row["arm"] == "sft")
    rates = listed([f"{rate:g}" for rate in own])
    seeds = listed(record["seeds"])
    return f"""Kept where a recipe and plain tuning first reach the score that both reach, seeds {seeds}.
Plain tuning's path runs from the base through its runs at {rates} times its rate, straight between them:

{matched(record)}"""


def _seeds_part(record: Row) -> str:
    """What each seed of ProMoT leaks, beside what its gate said after the first stage."""
    leaks = next(row["leak_of_seeds"] for row in record["plane"] if row["arm"] == "promot")
    gates = list(record["gates"].values())
    passed = [bool(gate["passed"]) for gate in gates]
    said = (
        f"ProMoT's seeds one by one: {listed([share(leak) for leak in leaks])} of the requests are answered with a "
        f"label. Its gate, which only reported here, passed {sum(passed)} of {len(gates)}, with at least "
        f"{share(min(gate['valid_format'] for gate in gates))} of the answers in the task's form after the first stage."
    )
    if any(ok and leak >= 0.5 for ok, leak in zip(passed, leaks, strict=True)):
        said += (
            " A prompt that has learned the form does not promise that the weights will not learn it too "
            "([where such a leak comes from](promot_seeds.md))."
        )
    return said


def _spent(record: Row) -> str:
    hours = sum(row["seconds"] for row in [*record["plane"], *_gentle(record)]) / 3600
    left = f" Planned and not run: {'; '.join(record['missing'])}." if record["missing"] else ""
    return f"{hours:.1f} hours of training and measuring beside other work, on {record['machine']['processor']}.{left}"


def _gentle(record: Row) -> list[Row]:
    """Plain tuning at lower rates."""
    return [row for row in record["rows"] if row["rate"] != 1.0]
