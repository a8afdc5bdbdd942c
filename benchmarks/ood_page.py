"""docs/results/ood.md from benchmarks/results/ood.json: scores, gains at equal score, effective robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Any

import numpy as np

from keeptune.report.words import points
from keeptune.statistics.frontiers import Reading
from keeptune.statistics.robustness import Path, Shift

PAGE = File(__file__).parent.parent / "docs" / "results" / "ood.md"
REFERENCE = "full"
CHANCE = {"pairs": 1 / 2, "packages": 1 / 12}
Floats = np.ndarray[Any, np.dtype[np.float64]]
SAYS = {
    "pairs": (
        "Sentence pairs",
        "all-MiniLM-L6-v2 learns from {drawn} pairs of SICK whether the second sentence follows from the first, and is "
        "tested on {known} pairs of SICK (`known`); `mnli`, `rte` and `cb` are shifted. Two answers, entailment or not "
        "(RTE has no more), as many rows of one as of the other: chance is 50%, and there, with a head that says "
        "nothing yet, every path begins. The encoder's makers trained it on pairs that included MNLI, for another "
        "purpose.",
    ),
    "packages": (
        "Texts of other packages",
        "pocket learns from {drawn} rows of the embedded task which of twelve areas a docstring documents; `known` are "
        "{known} rows of the same packages, `unseen` rows of packages that no other part has seen. Chance is 8.3%; "
        "every path begins at the base.",
    ),
}
HEAD = """\
# Do prompts and prefixes hold up better out of distribution?

```sh
python -m benchmarks.ood DATA
```

The field says so: with most of the model frozen, less is fitted to the training data. Here every method learns the same
rows, drawn anew for each seed, at one fixed rate, and three checkpoints along the way answer rows of the task and
shifted rows. A method that learned less also scores less on shifted rows, so two figures compare at equal score
([evaluation.md](../evaluation.md#out-of-distribution)): the gain over full tuning where both first reach the highest
score on the task that both reach, and the effective robustness of the last checkpoint by the line through those of full
tuning. Points; 90% intervals over items and seeds, the few seeds stretched as in [statistics.md](../statistics.md).
"""


def page(report: Mapping[str, Any], resamples: int = 2000) -> str:
    """The whole document; a seed that not every method has is left out."""
    names = [name for name in SAYS if complete(report, name)]
    parts = [setting_part(name, report, resamples) for name in names]
    processor = report["machine"]["processor"]
    minutes = sum(row["processor_seconds"] for row in report["rows"]) / 60
    return "\n".join([HEAD, *parts, f"{processor}, one thread, {minutes:.0f} minutes of processor time in all.", ""])


def complete(report: Mapping[str, Any], name: str) -> list[int]:
    """The seeds with which every method of a setting ran."""
    methods = list(report["sizes"].get(name, {"rates": ()})["rates"])
    done = {(row["seed"], row["method"]) for row in report["rows"] if row["setting"] == name}
    return [seed for seed in sorted({seed for seed, _ in done}) if all((seed, method) in done for method in methods)]


def setting_part(name: str, report: Mapping[str, Any], resamples: int) -> str:
    """One setting: its sentence, its scores, its comparisons."""
    sizes = report["sizes"][name]
    title, says = SAYS[name]
    shifts = {one: shift_of(report, name, [one], resamples) for one in sizes["shifted"]}
    if len(shifts) > 1:
        shifts["all"] = shift_of(report, name, list(sizes["shifted"]), resamples)
    seeds = f"{len(complete(report, name))} seeds."
    told = f"{says.format(drawn=sizes['drawn'], known=sizes['known'])} {seeds}"
    lines = [f"## {title}", "", told, "", *scores(sizes, shifts), ""]
    lines += [
        "| shifted rows | n | method | at a score of | gain over full tuning | effective robustness |",
        "|---|---:|---|---:|---:|---:|",
    ]
    clear = []
    for one, shift in shifts.items():
        n = sum(sizes["shifted"].values()) if one == "all" else sizes["shifted"][one]
        for method in sizes["rates"]:
            if method == REFERENCE:
                continue
            gain = shift.gain(method, REFERENCE)
            last = len(shift.paths[method].known_KSN) - 1
            level = percent(shift.common(method, REFERENCE))
            robust = shift.effective(method, last, REFERENCE)
            lines.append(f"| {one} | {n} | {method} | {level} | {cell(gain)} | {cell(robust)} |")
            if gain.low is not None and gain.high is not None and (gain.low > 0 or gain.high < 0):
                clear.append(f"{method} on {one} ({cell(gain)})")
    compared = len(shifts) * (len(sizes["rates"]) - 1)
    beyond = f"beyond 0 in {len(clear)}: {', '.join(clear)}" if clear else "beyond 0 in none"
    lines += ["", f"Of {compared} gains at equal score the interval lies {beyond}.", *guessed(name, shifts), ""]
    return "\n".join(lines)


def guessed(name: str, shifts: Mapping[str, Shift]) -> list[str]:
    """Where the reference itself cannot be told from guessing, nothing can hold up better."""
    blind = []
    for one, shift in shifts.items():
        reading = shift.scores(REFERENCE, len(shift.paths[REFERENCE].known_KSN) - 1)[1]
        if reading.low is not None and reading.low <= CHANCE[name]:
            blind.append(one)
    if not blind:
        return []
    where = ", ".join(blind)
    return [f"Full tuning's own interval reaches down to chance on {where}: what it learned hardly carries there."]


def scores(sizes: Mapping[str, Any], shifts: Mapping[str, Shift]) -> list[str]:
    """The last checkpoint of each method."""
    lines = [f"| method | rate | known | {' | '.join(shifts)} |", f"|---|---:|{'---:|' * (1 + len(shifts))}"]
    for method, rate in sizes["rates"].items():
        cells = []
        for shift in shifts.values():
            known, shifted = shift.scores(method, len(shift.paths[method].known_KSN) - 1)
            cells = [cells[0] if cells else cell(known, sign=False), *cells[1:], cell(shifted, sign=False)]
        lines.append(f"| {method} | {rate:.1e} | {' | '.join(cells)} |")
    return lines


def shift_of(report: Mapping[str, Any], name: str, shifted: Sequence[str], resamples: int) -> Shift:
    """The paths of every method over the seeds that all have; several shifted sets are put together.

    A head without training guesses: where the base does not answer by itself, a path begins at half of every row.
    """
    guess = [] if report["sizes"][name]["from base"] else [0.5]
    seeds = complete(report, name)
    rows = {(row["seed"], row["method"]): row for row in report["rows"] if row["setting"] == name}
    paths = {
        method: Path(
            items([rows[seed, method]["known"] for seed in seeds], guess),
            np.concatenate([items([rows[seed, method][one] for seed in seeds], guess) for one in shifted], axis=2),
        )
        for method in report["sizes"][name]["rates"]
    }
    return Shift(paths, resamples=resamples)


def items(seeds: Sequence[Sequence[str]], start: Sequence[float]) -> Floats:
    """Checkpoints x seeds x items from the digits of each seed's checkpoints, behind points that are alike for all."""
    made = np.array([[[float(mark) for mark in marks] for marks in own] for own in seeds]).transpose(1, 0, 2)
    return np.concatenate([np.full((1, *made.shape[1:]), score) for score in start] + [made])


def cell(reading: Reading, *, sign: bool = True) -> str:
    """`+1.2 (−3.0 to +5.1)`."""
    if reading.value is None:
        return "–"
    value = points(reading.value, sign=sign)
    if reading.low is None or reading.high is None:
        return value
    return f"{value} ({points(reading.low, sign=sign)} to {points(reading.high, sign=sign)})"


def percent(share: float) -> str:
    """`71.3%`."""
    return f"{points(share, sign=False)}%"
