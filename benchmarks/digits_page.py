"""The page of `benchmarks.digits_study`, from its runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from benchmarks import digits_incubation as incubation
from benchmarks import digits_spottune as spottune
from keeptune.core.usage import hours_of
from keeptune.report.words import took

COMMAND = "python -m benchmarks.digits_study"
ARMS = {
    "random": f"random weights, a head trained for {incubation.JOINT} steps",
    "assembled": "assembled, before any joint step",
    "joint": f"assembled, after {incubation.JOINT} joint steps",
    "same joint steps": f"from end to end, {incubation.JOINT} steps",
    "same compute": f"from end to end, {incubation.EQUAL} steps (the same block passes)",
}

PAIRS = (
    ("assembled, before any joint step, minus random weights", "assembled", "random"),
    ("assembled and joint steps minus as many steps from end to end", "joint", "same joint steps"),
    ("assembled and joint steps minus the same block passes from end to end", "joint", "same compute"),
)


def page(record: dict[str, Any]) -> str:
    """The record as a document."""
    runs, seeds = record["runs"], record["seeds"]
    made = [found for key, found in runs.items() if not key.startswith("rate|")]
    lines = [
        "# SpotTune and Deep Incubation on images",
        "",
        f"```sh\n{COMMAND}\n```",
        "",
        f"A ViT of {incubation.BLOCKS} blocks of width {incubation.WIDTH} on scikit-learn's digits (8 x 8 pixels). "
        f"Accuracy in percent on {incubation.TESTED} test images, {spottune.TESTED} of them of 5 to 9, the same for "
        f"all seeds; mean of {len(seeds)} seeds with the 90% interval of Student's t over seeds, which draw weights, "
        "order and the few images. Rates were chosen for each arm on dev rows, with one seed that is measured nowhere "
        f"else, among {_listed(spottune.RATES)}, where a star marks an end of the list, beyond which a better one may "
        f"lie; of Deep Incubation {_listed(incubation.RATES)} were tried. "
        + took(hours_of(made), record["machine"]["processor"]),
        "",
        "## SpotTune",
        "",
        f"The ViT has learned the digits 0 to 4 ({spottune.PRETRAINED_STEPS} steps) and gets {spottune.EACH} images "
        f"each of 5 to 9, upright or with ink and paper exchanged, for {spottune.STEPS} steps. Each trains a new head.",
        "",
        "| method, beside a head | rate | upright | inverted |",
        "|---|---|---|---|",
    ]
    for arm in spottune.ARMS:
        cells = [_percent(_scores(runs, arm, task, seeds)) for task in spottune.TASKS]
        rate = _rate(runs, arm)
        star = " *" * (rate in (spottune.RATES[0], spottune.RATES[-1]))
        lines.append(f"| `{arm}` | {rate:g}{star} | {' | '.join(cells)} |")
    lines += ["", *_beside(runs, seeds), "", *_decisions(runs, seeds), "", *_incubation(runs, seeds), ""]
    return "\n".join(lines)


def _beside(runs: dict[str, dict[str, Any]], seeds: Sequence[int]) -> list[str]:
    """SpotTune against the two methods that it stands between, seed by seed."""
    lines = ["Points that SpotTune gains over others, within a seed:", "", "| | upright | inverted |", "|---|---|---|"]
    for arm in (arm for arm in spottune.ARMS if arm.startswith("spottune")):
        for other in ("full", "lora"):
            cells = []
            for task in spottune.TASKS:
                own, theirs = (_scores(runs, name, task, seeds) for name in (arm, other))
                cells.append(_percent([a - b for a, b in zip(own, theirs, strict=True)]))
            lines.append(f"| `{arm}` - `{other}` | {' | '.join(cells)} |")
    return lines


def _decisions(runs: dict[str, dict[str, Any]], seeds: Sequence[int]) -> list[str]:
    """Which blocks SpotTune tuned, task by task, and the difference within a seed."""
    lines = [
        "Share of the training rows whose block was tuned, in percent, as the policy counted over the last fifth of "
        "the steps, without noise; the difference is within a seed:",
        "",
        "| branch, block | upright | inverted | inverted - upright |",
        "|---|---|---|---|",
    ]
    beyond: list[bool] = []
    for arm in (arm for arm in spottune.ARMS if arm.startswith("spottune")):
        shares = {
            task: [runs[_key(runs, arm, task, seed)]["tuned"] for seed in seeds] for task in spottune.TASKS
        }  # seed, block
        blocks = range(incubation.BLOCKS)
        for name, chosen in [*((f"block {block + 1}", [block]) for block in blocks), ("all blocks", list(blocks))]:
            one, two = ([mean(row[block] for block in chosen) for row in shares[task]] for task in spottune.TASKS)
            apart = [b - a for a, b in zip(one, two, strict=True)]
            lines.append(f"| `{arm}`, {name} | {_percent(one)} | {_percent(two)} | {_percent(apart)} |")
            if len(chosen) == 1:
                beyond.append(abs(mean(apart)) > _reach(apart))
    found = f"Single blocks whose two tasks differ beyond their own interval: {sum(beyond)} of {len(beyond)}"
    return [*lines, "", f"{found}; if both were tuned alike, it would be one in ten."]


def _incubation(runs: dict[str, dict[str, Any]], seeds: Sequence[int]) -> list[str]:
    """Deep Incubation against training from end to end."""
    lines = [
        "## Deep Incubation",
        "",
        f"From random weights, all ten digits, {incubation.TRAINED} images: {incubation.MODULES} modules, "
        f"{incubation.META} steps of the meta model and {incubation.MODULE} of each module.",
        "",
        "| model | rate | accuracy |",
        "|---|---|---|",
    ]
    for arm, says in ARMS.items():
        values = _scores(runs, f"incubation|{arm}", None, seeds)
        lines.append(f"| {says} | {_rate(runs, f'incubation|{arm}'):g} | {_percent(values)} |")
    lines += ["", "Within a seed, points:", ""]
    for says, arm, other in PAIRS:
        mine, theirs = (_scores(runs, f"incubation|{name}", None, seeds) for name in (arm, other))
        lines.append(f"- {says}: {_percent([a - b for a, b in zip(mine, theirs, strict=True)])}")
    return lines


def _rate(runs: dict[str, dict[str, Any]], arm: str) -> float:
    rate: float = runs[f"rate|{arm}"]["rate"]
    return rate


def _key(runs: dict[str, dict[str, Any]], arm: str, task: str | None, seed: int) -> str:
    return "|".join(["test", arm, *([task] if task else []), f"{_rate(runs, arm):g}", str(seed)])


def _scores(runs: dict[str, dict[str, Any]], arm: str, task: str | None, seeds: Sequence[int]) -> list[float]:
    return [runs[_key(runs, arm, task, seed)]["accuracy"] for seed in seeds]


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _percent(values: Sequence[float]) -> str:
    """Mean and half the 90% interval, times a hundred."""
    return f"{100 * mean(values):.1f} ± {100 * _reach(values):.1f}"


def _reach(values: Sequence[float]) -> float:
    """Half the 90% interval of Student's t."""
    from scipy import stats

    return float(stats.t.ppf(0.95, len(values) - 1) * stats.sem(values))
