"""What a study of instruction data says: each question with its comparisons, and what could not be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keeptune.core.counting import counted
from keeptune.report.words import NAMES, took

Result = Mapping[str, Any]
QUESTIONS = {
    "templates": "Does it help to ask in ten ways?",
    "tasks": "Is a task learned better beside others?",
    "held-out kind": "What do kinds that were never trained gain?",
    "dialogues": "What do a few dialogues add to single turns?",
    "quantity": "Do more rows help?",
    "diversity": "Do rows of many kinds beat as many of one?",
    "quality": "Do chosen rows beat as many that were passed over?",
}
MARKS = {"better": " **better**", "worse": " **worse**"}


def instructions_text(result: Result) -> str:
    """The study in Markdown; plain enough for a terminal."""
    parts = [lead(result)]
    for name, asked in QUESTIONS.items():
        rows = [one for one in result["comparisons"] if one["question"] == name]
        if rows:
            parts.append("\n".join([f"**{asked}**", "", *_table(rows), "", verdict(asked, rows)]))
    parts.append(_small_print(result))
    if result["refused"]:
        parts.append("Not asked:\n\n" + "\n".join(f"- {name}: {why}" for name, why in result["refused"].items()))
    return "\n\n".join(parts)


def lead(result: Result) -> str:
    """What was done."""
    length = ", ".join(f"{value:,g} {name.replace('_', ' ')}" for name, value in result["length"].items())
    runs = sum(arm["seeds"] for arm in result["arms"] if arm["rows"])
    trained = [arm for arm in result["arms"] if arm["rows"]]
    rows = "; ".join(f"{arm['name']} ({arm['rows']:,})" for arm in trained)
    what = f"`{result['recipe']}` on `{Path(result['model']).name}`: {', '.join(result['methods'])}, {length}"
    arms = f"{counted(len(trained), 'arm')}, {counted(result['seeds'], 'seed')} each, {counted(runs, 'run')}"
    return f"{what}; {arms}. Training rows: {rows}. {took(result.get('hours'))}"


def _table(rows: list[Result]) -> list[str]:
    lines = [
        "| against | measured on | score | first | second | change | seen from |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for one in rows:
        first, second = (_score(one, value) for value in one["values"])
        ends = " to ".join(_change(one, one[end]) for end in ("low", "high"))
        cells = [
            f"{one['first']} / {one['second']}", f"{one['exam']} ({one['n']})", NAMES.get(one["metric"], one["metric"]),
            first, second, f"{_change(one, one['change'])} ({ends}){MARKS.get(one['verdict'], '')}",
            _change(one, one["detectable"]).lstrip("+"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def verdict(asked: str, rows: list[Result]) -> str:
    """One sentence on one question."""
    told = [one for one in rows if one["verdict"] != "no difference shown"]
    if not told:
        return "No difference is shown that holds beside all the other comparisons."
    said = [
        f"{one['first']} {'beats' if one['verdict'] == 'better' else 'loses against'} {one['second']} on {one['exam']} "
        f"({NAMES.get(one['metric'], one['metric'])} {_change(one, one['change'])})"
        for one in told
    ]
    left = len(rows) - len(told)
    rest = f" In {left} of {len(rows)} comparisons no such difference is shown." if left else ""
    return f"{'; '.join(said)}.{rest}"


def _small_print(result: Result) -> str:
    written = next(one["metric"] for one in result["comparisons"] if one["metric"] != "bits_per_byte")
    return (
        f"{result['level']:.0%} intervals over items and seeds; better and worse where the interval that holds for all "
        f"{len(result['comparisons'])} comparisons together leaves zero out. *Seen from*: the smallest true change "
        f"that a {result['level']:.0%} interval would leave zero out of four times in five, by the errors found. Bits "
        f"per byte are those of the exam's answers, lower is better; {NAMES.get(written, written)} is of greedy "
        f"answers of at most {result['max_new_tokens']} tokens."
    )


def _percent(one: Result) -> bool:
    return bool(one["metric"] != "bits_per_byte")


def _score(one: Result, value: float) -> str:
    return f"{100 * value:.1f}%" if _percent(one) else f"{value:.3f}"


def _change(one: Result, value: float) -> str:
    return (f"{100 * value:+.1f}" if _percent(one) else f"{value:+.3f}").replace("-", "−")
