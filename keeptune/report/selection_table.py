"""What a study of selection says: the score of every arm, each selector against random, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from keeptune.core.counting import counted
from keeptune.report.words import NAMES, took

Result = Mapping[str, Any]


def selection_text(result: Result) -> str:
    """The study in Markdown; plain enough for a terminal."""
    refused = [f"Not computed: {name}, {why}." for name, why in result.get("refused", {}).items()]
    parts = [scores(result), against(result), looks(result), [verdict(result)], refused]
    return "\n".join([lead(result), *("\n".join(["", *part]) for part in parts if part)])


def lead(result: Result) -> str:
    """What was done."""
    length = ", ".join(f"{value:,g} {name.replace('_', ' ')}" for name, value in result["length"].items())
    metric = NAMES.get(result["metric"], result["metric"])
    whole = _score(result, _by(result, "all", 1.0)[0])
    what = f"`{result['recipe']}` on `{Path(result['model']).name}`: {', '.join(result['methods'])}, {length}"
    rows, test = counted(result["rows"], "row"), counted(result["n"], "test row")
    rows = f"{rows} to choose from, {metric} on {test}; all rows: {whole}"
    return f"{what}; {rows}. {took(result.get('hours'))}"


def scores(result: Result) -> list[str]:
    """A row for each way of choosing, a column for each share."""
    shares = _shares(result)
    rows = [f"| chosen by | {' | '.join(_share(result, share) for share in shares)} |", "|---|" + "---:|" * len(shares)]
    for by in _names(result):
        cells = []
        for share in shares:
            found = _by(result, by, share)
            spread = f" ± {_spread(result, stdev(found))}" if len(found) > 1 else ""
            cells.append(_score(result, fmean(found)) + spread)
        rows.append(f"| {by} | {' | '.join(cells)} |")
    return [
        *rows,
        "",
        f"random: mean and standard deviation of {result['seeds']} draws, each trained with its own seed.",
    ]


def against(result: Result) -> list[str]:
    """Each selector's change from the mean of the random draws."""
    shares = _shares(result)
    head = f"| minus random | {' | '.join(_share(result, share) for share in shares)} |"
    rows = [head, "|---|" + "---:|" * len(shares)]
    marks = {"better": " **better**", "worse": " **worse**"}
    if not result["comparisons"]:
        return []
    for by in _names(result)[1:]:
        cells = []
        for share in shares:
            one = next(c for c in result["comparisons"] if (c["by"], c["share"]) == (by, share))
            shown = " to ".join(_change(result, one[end]) for end in ("low", "high"))
            cells.append(f"{_change(result, one['change'])} ({shown}){marks.get(one['verdict'], '')}")
        rows.append(f"| {by} | {' | '.join(cells)} |")
    count = len(result["comparisons"])
    return [
        *rows, "", f"{result['level']:.0%} intervals over items and draws; bold where the interval that holds for all "
        f"{count} comparisons together leaves zero out.",
    ]  # fmt: skip


def looks(result: Result) -> list[str]:
    """What the chosen rows are like: things that could explain a difference."""
    columns = ("radius", "distance", "nearest_query", "words", "answers")
    names = ("coverage radius", "mean distance", "nearest query", "median words", "different answers")
    rows = [f"| chosen rows | share | tokens | {' | '.join(names)} |", "|---|---:|---:|" + "---:|" * len(names)]
    for by in _names(result):
        for share in _shares(result):
            found = [arm for arm in result["arms"] if (arm["by"], arm["share"]) == (by, share)]
            means = [
                None if found[0]["looks"][key] is None else fmean(arm["looks"][key] for arm in found) for key in columns
            ]
            cells = ["–" if mean is None else f"{mean:,.0f}" if mean >= 10 else f"{mean:.2f}" for mean in means]
            tokens = fmean(arm["tokens"] for arm in found)
            rows.append(f"| {by} | {share:.3g} | {tokens:,.0f} | {' | '.join(cells)} |")
    return rows


def verdict(result: Result) -> str:
    """One sentence, the negative one first."""
    if not result["comparisons"]:
        return "No selector could be asked."
    found = {word: [c for c in result["comparisons"] if c["verdict"] == word] for word in ("better", "worse")}
    said = []
    if not found["better"]:
        widest = max((c["high"] - c["low"]) / 2 for c in result["comparisons"])
        unit = " points" if _percent(result) else " bits"
        said.append(
            f"Nothing beats random here; differences below {_spread(result, widest)}{unit} could not be told apart."
        )
    else:
        said.append(f"Better than random: {_told(result, found['better'])}.")
    if found["worse"]:
        said.append(f"Worse than random: {_told(result, found['worse'])}.")
    return " ".join(said)


def _told(result: Result, comparisons: Sequence[Result]) -> str:
    return ", ".join(f"{c['by']} at {c['share']:.3g} ({_change(result, c['change'])})" for c in comparisons)


def _names(result: Result) -> list[str]:
    return [by for by in dict.fromkeys(arm["by"] for arm in result["arms"]) if by != "all"]


def _shares(result: Result) -> list[float]:
    return sorted({arm["share"] for arm in result["arms"] if arm["by"] != "all"})


def _share(result: Result, share: float) -> str:
    rows = next(arm["rows"] for arm in result["arms"] if arm["share"] == share)
    return f"{100 * share:.3g}% ({rows:,})"


def _by(result: Result, by: str, share: float) -> list[float]:
    return [arm["score"] for arm in result["arms"] if (arm["by"], arm["share"]) == (by, share)]


def _percent(result: Result) -> bool:
    return bool(result["metric"] != "bits_per_byte")


def _score(result: Result, value: float) -> str:
    return f"{100 * value:.1f}%" if _percent(result) else f"{value:.4f}"


def _spread(result: Result, value: float) -> str:
    return f"{100 * value:.1f}" if _percent(result) else f"{value:.4f}"


def _change(result: Result, value: float) -> str:
    return (f"{100 * value:+.1f}" if _percent(result) else f"{value:+.4f}").replace("-", "−")
