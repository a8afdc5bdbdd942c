"""What `keeptune check` found, on a terminal and as a page."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from keeptune.core.typed import typed
from keeptune.data.view import TokenView
from keeptune.recipes.examine import Examined
from keeptune.report.html import Markup, element, table, visible
from keeptune.report.page import document

SHOWN_PROBLEMS = 10
COLOURS = {"learned": "\033[1;32m", "seen": "\033[2m", "cut": "\033[9;31m"}
BRACKETS = {"learned": "«»", "seen": "", "cut": "✂✂"}
BARS, WIDTH = 8, 40
LATER = "{name}: the base writes these rows when the recipe runs; there is nothing to look at yet"


def check_text(name: str, settings: Sequence[str], checks: Sequence[Examined], result: Mapping[str, Any]) -> str:
    """A screen of text; on a terminal in colours, elsewhere «learned» stands in marks and ✂cut✂ between scissors."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    lines: list[str] = []
    for found in checks:
        lines += [found.name, "  " + ", ".join(f"{key} {value:,}" for key, value in found.counts.items() if value)]
        lines += [f"  {low:>6}-{high:<6} {'█' * bar:<{WIDTH}} {count:,}" for low, high, count, bar in histogram(found)]
        lines += [f"  note: {note}" for note in found.notes]
        lines += [f"  {problem}" for problem in problem_lines(found)]
        lines += [""] + ["  " + _row(view, coloured=coloured).replace("\n", "\n  ") + "\n" for view in found.rows]
    lines += [LATER.format(name=name) for name in result["made_later"]]
    if result["leaks"]:
        lines += leak_lines(result)
    lines += [f"note: {note}" for note in result["notes"]]
    lines.append(_legend() if coloured else "«learned»  seen  ✂cut✂")
    lines.append(f"\nNext: {typed('keeptune', 'run', name, settings=settings)}" if result["fault"] is None else "")
    return "\n".join(lines).rstrip("\n")


def check_page(name: str, checks: Sequence[Examined], result: Mapping[str, Any]) -> str:
    """The same as one HTML file that opens offline."""
    body: list[object] = [
        element("p", f"What {name} would learn", class_="kicker"),
        element("h1", "Every row, before anything is spent"),
        element("p", [element("span", state, class_=f"token {state}") for state in COLOURS], class_="note"),
    ]
    if result["fault"]:
        fault = result["fault"]
        body.append(
            element("p", element("b", f"{fault['code']}  "), fault["what"], " ", fault["why"], " ", fault["fix"])
        )
    for found in checks:
        body.append(element("section", *_section(found)))
    body += [element("p", LATER.format(name=name), class_="note") for name in result["made_later"]]
    body += [element("p", note, class_="note") for note in result["notes"]]
    if result["leaks"]:
        body.append(
            element("section", element("h2", "Test rows in training"), [element("p", x) for x in leak_lines(result)])
        )
    return document(f"keeptune check: {name}", body)


def histogram(found: Examined) -> list[tuple[int, int, int, int]]:
    """Lengths in tokens: first and last length, rows, and the length of the bar; at most eight bars."""
    lengths = np.asarray(found.lengths, np.int64)
    if not len(lengths):
        return []
    low, high = int(lengths.min()), int(lengths.max())
    step = max(1, -(-(high - low + 1) // BARS))
    counts = np.bincount((lengths - low) // step)
    return [
        (
            low + index * step,
            min(high, low + (index + 1) * step - 1),
            int(count),
            round(WIDTH * int(count) / int(counts.max())),
        )
        for index, count in enumerate(counts)
    ]


def problem_lines(found: Examined) -> list[str]:
    """The first rows that are cut, dropped or split, and how many more there are."""
    shown = found.problems[:SHOWN_PROBLEMS]
    left = sum(found.counts[f"encoded {what}"] for what in ("cut", "dropped", "split")) - len(shown)
    return [*shown, *([f"and {left:,} more"] if left > 0 else [])]


def leak_lines(result: Mapping[str, Any]) -> list[str]:
    """What the overlap of test and training is, and the first rows of each kind."""
    counts = result["leaks"]
    told = [
        f"rows that are measured: training asks {counts['exact']:,} of them exactly and {counts['near']:,} nearly; "
        f"{counts['ngram']:,} share 13 words in a row with it"
        + (f", {counts['boilerplate']:,} only wording of the task" if counts["boilerplate"] else "")
    ]
    for kind in ("exact", "near", "ngram"):
        rows = [f"{row['source']} line {row['line'] or row['id']}" for row in result["leaking"] if row["kind"] == kind]
        told += [f"  {kind}: {', '.join(rows)}{', ...' if counts[kind] > len(rows) else ''}"] if rows else []
    return told


def _section(found: Examined) -> list[object]:
    counts = [(key, f"{value:,}") for key, value in found.counts.items() if value]
    bars = [(f"{low:,}-{high:,}", "█" * bar, f"{count:,}") for low, high, count, bar in histogram(found)]
    return [
        element("h2", found.name),
        [element("p", note, class_="note") for note in found.notes],
        [element("pre", [_token(token) for token in view if token.text], class_="tokens") for view in found.rows],
        [element("p", problem) for problem in problem_lines(found)],
        element("h3", "Tokens in a row"),
        table(["tokens", "", "rows"], bars, numeric=frozenset({2})),
        element("h3", "Counts"),
        table(["", "rows or tokens"], counts, numeric=frozenset({1})),
    ]


def _token(token: TokenView) -> Markup:
    return element("span", token.text, class_=f"token {token.state}", title=f"{token.id} {token.state}")


def _row(view: Sequence[TokenView], *, coloured: bool) -> str:
    pieces = []
    for state, tokens in groupby(view, key=lambda token: token.state):
        text = visible("".join(token.text for token in tokens))
        marks = BRACKETS[state]
        pieces.append(f"{COLOURS[state]}{text}\033[0m" if coloured else f"{marks[:1]}{text}{marks[1:]}")
    return "".join(pieces)


def _legend() -> str:
    return "  ".join(f"{colour}{state}\033[0m" for state, colour in COLOURS.items())
