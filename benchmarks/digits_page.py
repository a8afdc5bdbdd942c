"""The page of `benchmarks.digits_study`, from its runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from benchmarks import digits_incubation as incubation
from benchmarks import digits_spottune as spottune

COMMAND = "python -m benchmarks.digits_study"
ARMS = {
    "random": f"random weights, a head trained for {incubation.JOINT} steps",
    "assembled": "assembled, before any joint step",
    "joint": f"assembled, after {incubation.JOINT} joint steps",
    "same joint steps": f"from end to end, {incubation.JOINT} steps",
    "same compute": f"from end to end, {incubation.EQUAL} steps (the same block passes)",
}


def page(runs: dict[str, dict[str, Any]], seeds: Sequence[int]) -> str:
    """The result as a document."""
    lines = [
        "# SpotTune and Deep Incubation on images",
        "",
        f"```sh\n{COMMAND}\n```",
        "",
        f"A ViT of {incubation.BLOCKS} blocks of width {incubation.WIDTH} on scikit-learn's digits (8 x 8 pixels). "
        f"Test accuracy in percent, mean of {len(seeds)} seeds with the 90% interval of Student's t over seeds. Rates "
        f"were chosen for each arm on dev rows, with a seed of their own, among {_listed(spottune.RATES)} (of Deep "
        f"Incubation among {_listed(incubation.RATES)}).",
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
        lines.append(f"| `{arm}` | {_rate(runs, arm):g} | {' | '.join(cells)} |")
    lines += ["", *_decisions(runs, seeds), "", *_incubation(runs, seeds), ""]
    return "\n".join(lines)


def _decisions(runs: dict[str, dict[str, Any]], seeds: Sequence[int]) -> list[str]:
    """Which blocks SpotTune tuned, task by task, and the difference within a seed."""
    lines = [
        "Share of the training rows whose block was tuned, in percent, as the policy counted over the last fifth of "
        "the steps, without noise; the difference is within a seed:",
        "",
        "| branch, block | upright | inverted | inverted - upright |",
        "|---|---|---|---|",
    ]
    for arm in (arm for arm in spottune.ARMS if arm.startswith("spottune")):
        shares = {
            task: [runs[_key(runs, arm, task, seed)]["tuned"] for seed in seeds] for task in spottune.TASKS
        }  # seed, block
        blocks = range(incubation.BLOCKS)
        for name, chosen in [*((f"block {block + 1}", [block]) for block in blocks), ("all blocks", list(blocks))]:
            one, two = ([mean(row[block] for block in chosen) for row in shares[task]] for task in spottune.TASKS)
            apart = [b - a for a, b in zip(one, two, strict=True)]
            lines.append(f"| `{arm}`, {name} | {_percent(one)} | {_percent(two)} | {_percent(apart)} |")
    return lines


def _incubation(runs: dict[str, dict[str, Any]], seeds: Sequence[int]) -> list[str]:
    """Deep Incubation against training from end to end."""
    lines = [
        "## Deep Incubation",
        "",
        f"From random weights, all ten digits, 900 images: {incubation.MODULES} modules, {incubation.META} steps of "
        f"the meta model and {incubation.MODULE} of each module.",
        "",
        "| model | rate | accuracy |",
        "|---|---|---|",
    ]
    for arm, says in ARMS.items():
        values = _scores(runs, f"incubation|{arm}", None, seeds)
        lines.append(f"| {says} | {_rate(runs, f'incubation|{arm}'):g} | {_percent(values)} |")
    mine, whole = (_scores(runs, f"incubation|{arm}", None, seeds) for arm in ("joint", "same compute"))
    apart = [a - b for a, b in zip(mine, whole, strict=True)]
    lines += ["", f"Modules and joint steps minus the same block passes from end to end: {_percent(apart)} points."]
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
    from scipy import stats

    reach = stats.t.ppf(0.95, len(values) - 1) * stats.sem(values)
    return f"{100 * mean(values):.1f} ± {100 * reach:.1f}"
