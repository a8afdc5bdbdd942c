"""The page of `benchmarks.promot_seeds`, from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.core.usage import hours_of
from keeptune.report.words import took

FIGURES = {
    "mass": "mass of the labels, log",
    "skew": "skew of the labels, nats",
    "labels_said": "labels said",
    "commonest": "share of the commonest",
    "dev": "right on dev",
    "pull": "pull towards leaking",
}
SHARES = ("commonest", "dev")
Row = Mapping[str, Any]


def rows(cells: Sequence[Row], gates: Sequence[Row]) -> list[dict[str, Any]]:
    """What goes with the leak over prompts in their own orders, and what two prompts do in each other's order."""
    from scipy import stats

    leaks = {(cell["prompt"], cell["order"]): cell["leak"] for cell in cells}
    own = [leaks[gate["prompt"], gate["prompt"]] for gate in gates]
    found: list[dict[str, Any]] = []
    for figure in FIGURES:
        ranks = stats.spearmanr([gate[figure] for gate in gates], own).statistic
        found.append({"what": figure, "rank_correlation": float(ranks), "n": len(gates)})
    most, least = next(pair for pair in leaks if pair[0] != pair[1])
    by_prompt = (leaks[most, most] + leaks[most, least] - leaks[least, most] - leaks[least, least]) / 2
    by_order = (leaks[most, most] + leaks[least, most] - leaks[most, least] - leaks[least, least]) / 2
    return [*found, {"what": "changed orders", "most": most, "least": least, "prompt": by_prompt, "order": by_order}]


def page(record: Row) -> str:
    """The result as a document."""
    leaks = {(cell["prompt"], cell["order"]): cell["leak"] for cell in record["cells"]}
    found = {one["what"]: one for one in record["rows"]}
    lines = [
        "# Where a seed of ProMoT that leaks gets its leak from",
        "",
        f"```sh\n{record['command']}\n```",
        "",
        f"pocket on the embedded task, {record['tokens']:,} tokens, half of them for the prompt, as in "
        "[what recipes keep](keeping.md#twice-the-tokens). Leak: share of "
        f"{record['requests']} unrelated requests that are answered with a label, the prompt off; they are another "
        "draw than a proof's. Right of it what can be read after the first stage, before the weights learn "
        f"([how](../../benchmarks/promot_gate.py); {record['dev_rows']} dev rows, 64 requests). "
        + took(hours_of([*record["gates"], *record["cells"]]), record["machine"]["processor"]),
        "",
        f"| seed | leak | {' | '.join(FIGURES.values())} |",
        "|---|" + "---:|" * (len(FIGURES) + 1),
    ]
    for gate in record["gates"]:
        figures = [_shown(name, gate[name]) for name in FIGURES]
        lines.append(f"| {gate['prompt']} | {leaks[gate['prompt'], gate['prompt']]:.1%} | {' | '.join(figures)} |")
    ranks = [f"{found[name]['rank_correlation']:+.2f}" for name in FIGURES]
    lines += [
        f"| rank correlation with the leak | | {' | '.join(ranks)} |",
        "",
        f"Over {len(record['gates'])} seeds {_told(len(record['gates']))}. "
        f"Without any prompt the pull is {record['gates'][0]['pull_without_prompt']:.3f}.",
        "",
        *_changed(leaks, found["changed orders"]),
        "",
    ]
    return "\n".join(lines)


def _told(seeds: int) -> str:
    """What a rank correlation of so few can say: of n! orders two are as clear as the clearest."""
    if seeds < 5:
        return "no rank correlation would be told from chance"
    return "only ±1 would be told from chance at 5%, and that of one figure alone"


def _changed(leaks: Mapping[tuple[int, int], float], found: Row) -> list[str]:
    most, least = found["most"], found["least"]
    return [
        "The prompt that leaks most and the one that leaks least, each with the second stage in both orders: the "
        f"prompt moves the leak by {100 * found['prompt']:+.1f} points, the order by {100 * found['order']:+.1f}.",
        "",
        f"| prompt | order {most} | order {least} |",
        "|---|---:|---:|",
        *(f"| {prompt} | {leaks[prompt, most]:.1%} | {leaks[prompt, least]:.1%} |" for prompt in (most, least)),
    ]


def _shown(name: str, value: float) -> str:
    return f"{value:.0f}" if name == "labels_said" else f"{value:.1%}" if name in SHARES else f"{value:.3f}"
