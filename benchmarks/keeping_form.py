"""When a recipe's format leaked in training, and what recipes keep at equal score: parts of the page on keeping."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.keeping_words import Row, reading, share, table, told
from keeptune.report.words import points

BATCH_TOKENS = 2048
"""Of a step, in the recipes that have a curve."""


def looks(record: Row) -> str:
    """When half of the requests leaked and what dev had then, and both at the last look; one figure per seed."""
    by_arm: dict[str, list[Sequence[Row]]] = {}
    for name, found in record["curves"].items():
        by_arm.setdefault(name.rpartition("-")[0], []).append(found)
    rows = []
    for arm, runs in by_arm.items():
        half = [next((look for look in found if look["leak"] >= 0.5), None) for found in runs]
        last = [found[-1] for found in runs]
        rows.append(
            [f"`{arm}`", ", ".join("never" if look is None else str(look["step"]) for look in half),
             *(", ".join("–" if look is None else share(look[key]) for look in found)
               for found, key in ((half, "target"), (last, "leak"), (last, "target")))]
        )  # fmt: skip
    head = ["recipe", "half of the requests leak at step", "dev there", "leak at the last look", "dev there"]
    every = {2: "two", 4: "four"}[record.get("looks", 2)]
    note = (
        f"Looks at 30 requests and 30 dev rows every {every} steps, of {round(record['tokens'] / BATCH_TOKENS)} in a "
        "run; one figure per seed. A curve ends when 95 points are lost."
    )
    if "promot" in by_arm:
        read = share(by_arm["promot"][0][-1]["tokens"] / record["tokens"])
        note += (
            " ProMoT spends the first half of its tokens on the prompt, with the model frozen; its answers to requests "
            "are given with the prompt off, as it is off the task; its steps are those of the second stage. Its "
            f"prompt's own positions count as drawn: {read} of its tokens are text, and there its curve ends."
        )
    return f"{table(head, rows)}\n\n{note}"


def matched(record: Row) -> str:
    """Each recipe beside plain tuning, at the highest score that both reach."""
    rows = [
        [f"`{name}`", f"{points(found['level'], sign=False)}%", reading(found["first"], sign=False, unit="%"),
         reading(found["second"], sign=False, unit="%"), told(found["difference"])]
        for name, found in record["matched"].items() if found
    ]  # fmt: skip
    return table(["recipe", "task score", "it keeps", "`sft` keeps", "difference"], rows)
