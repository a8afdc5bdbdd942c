"""Do special abilities keep rising with data while general ones level off? Two abilities of pocket, each on its own.

    python -m benchmarks.scaling FOLDER            # goes on where it stopped; writes its record and its page
    python -m benchmarks.scaling FOLDER --again    # the step that stayed open, five other seeds on other rows
    python -m benchmarks.scaling FOLDER --quick    # one seed, two shares, one epoch; prints

The special ability is words in reversed order, which pocket cannot do; the general one is five kinds of request that it
answers already, now in a polite sentence (`benchmarks.dmt` makes both). Full tuning; epochs stay, as in the paper, so
that fewer rows are fewer steps too. Exact match on contents that no training row shares.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.dmt import RATE, rows, said
from keeptune.core.files import atomic_write, make_folder
from keeptune.core.machine import calm_process
from keeptune.report.words import took
from keeptune.studies._session import run_study

ABILITIES = {"special": "task", "general": "general"}
"""By their names in `benchmarks.dmt`."""
ROWS, TEST, EPOCHS, BATCH_TOKENS = 2048, 300, 2, 1024
SHARES = (1 / 64, 1 / 16, 1 / 4, 1.0)
SEEDS = 3
MARGIN = 0.05
"""What four times the rows may add to an ability that is said to have levelled off; fixed before any run."""
LEVEL = f"general: they bring at most {100 * MARGIN:g} points"
AGAIN_SEEDS = tuple(range(10, 15))
"""Of the last step of the general ability, which three seeds left open; fixed, with the other rows, before any ran."""
KEPT = ("tokens", "seeds", "domains", "cells", "gains", "trends", "hours")
PAGE = Path(__file__).parent.parent / "docs" / "results" / "scaling.md"
Plain = dict[str, Any]


def study(
    folder: Path, name: str, seeds: int, shares: tuple[float, ...], epochs: int, first: int = 7, draw: str = "scaling"
) -> Plain:
    """The ability at every share of its rows; `draw` says which rows, test rows too."""
    make_folder(folder / name)
    path = folder / name / "rows.jsonl"
    made = rows(ABILITIES[name], ROWS, TEST, draw)
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in made))
    settings = [
        f"data.task={{format: prompt_completion, path: {path.resolve()}}}", f"seed={first}",
        f"stages[0].optimizer.lr={RATE}", f"stages[0].epochs={epochs}",
        f"stages[0].batch_tokens={BATCH_TOKENS}",
        "split={dev: 0, test: 0.2}", "proof={target: {data: task, metric: exact_match, max_new_tokens: 32}}",
    ]  # fmt: skip
    choices = ["design=vary", f"design.shares={list(shares)}", f"seeds={seeds}", "abilities=false"]
    return run_study("mixture", "sft", folder / name / "study", settings, choices)


def claims(found: Mapping[str, Plain]) -> list[Plain]:
    """What the paper says, each with its figure, and whether the interval shows it, denies it, or leaves it open."""
    last = {name: found[name]["gains"][-1] for name in ABILITIES}
    apart = _difference(last["special"], last["general"])
    lines = [
        ("special: the last four times as many rows bring more", last["special"], 0.0, math.inf),
        (LEVEL, last["general"], -math.inf, MARGIN),
        ("they bring more to the special ability than to the general one", apart, 0.0, math.inf),
    ]
    return [_claim(*line) for line in lines]


def claim_again(again: Plain) -> Plain:
    """The one that stayed open."""
    return _claim(LEVEL, again["gains"][-1], -math.inf, MARGIN)


def _claim(text: str, one: Plain, least: float, most: float) -> Plain:
    return {"claim": text, **_ends(one), "verdict": _verdict(one, least, most)}


def _difference(one: Plain, other: Plain) -> Plain:
    """Of two independent readings: half-widths add in squares, each side its own."""
    value = one["value"] - other["value"]
    below = math.hypot(one["value"] - one["low"], other["high"] - other["value"])
    above = math.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return {"value": value, "low": value - below, "high": value + above}


def _verdict(one: Plain, least: float, most: float) -> str:
    if one["low"] > least and one["high"] < most:
        return "shown"
    return "denied" if one["high"] < least or one["low"] > most else "open"


def _ends(one: Plain) -> Plain:
    return {key: one[key] for key in ("value", "low", "high")}


def page(made: Plain, again: Plain | None = None) -> str:
    """The record as a document; `again` is that of the last step's other seeds."""
    found: dict[str, Plain] = {name: made[name] for name in ABILITIES}
    first = next(iter(found.values()))
    hours = [one.get("hours") for one in found.values()]
    shares = [cell["at"]["share"] for cell in first["cells"]]
    lines = [
        "# Do special abilities keep rising with data while general ones level off?",
        "",
        "```sh\npython -m benchmarks.scaling FOLDER\n```",
        "",
        f"Full tuning of pocket, rate {RATE:g}, batches of {BATCH_TOKENS:,} tokens, {EPOCHS} epochs for every "
        "amount of rows, so that fewer rows are fewer steps too. `special` is reversing words, which pocket cannot do; "
        "`general` five kinds of request that it answers already, now in a polite sentence. Each is trained alone. "
        "Exact match on "
        f"{first['domains'][0]['n']} rows each whose contents are in no training row; {first['seeds']} seeds, 90% "
        f"intervals over seeds and items. {took(_sum(hours), made['machine']['processor'])}",
        "",
        f"| rows | {' | '.join(f'{round(ROWS * share):,}' for share in shares)} |",
        "|---|" + "---:|" * len(shares),
    ]
    for name, result in found.items():
        cells = [_percent(cell["scores"]["task"]) for cell in result["cells"]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| what more rows bring, in points | " + " | ".join(map(_step, first["gains"])) + " |",
              "|---|" + "---:|" * len(first["gains"])]  # fmt: skip
    lines += [f"| {name} | {' | '.join(map(_points, result['gains']))} |" for name, result in found.items()]
    lines += ["", "| what the paper says (arXiv:2310.05492) | points | |", "|---|---|---|"]
    lines += [f"| {one['claim']} | {_points(one)} | {one['verdict']} |" for one in claims(found)]
    lines += _again(again) if again else []
    return "\n".join([*lines, ""])


def _again(again: Plain) -> list[str]:
    """The section of the last step's other seeds."""
    seeds, claim = again["seeds"], again["rows"][0]
    text = claim["claim"].replace("they", "the last four times as many rows")
    few, all_rows = [_percent(cell["scores"]["task"]) for cell in again["cells"]]
    return [
        "",
        "## The last step of the general ability again",
        "",
        f"```sh\n{again['command']}\n```",
        "",
        f"What stayed open, asked of {len(seeds)} other seeds on other rows, fixed before any ran. {ROWS // 4:,} rows: "
        f"{few}; {ROWS:,} rows: {all_rows}. {took(again['hours'], again['machine']['processor'])}",
        "",
        "| claim | points | |",
        "|---|---|---|",
        f"| {text} | {_points(claim)} | {claim['verdict']} |",
    ]


def _sum(hours: Sequence[float | None]) -> float | None:
    """Of all; None where one is not known."""
    known = [one for one in hours if one is not None]
    return sum(known) if len(known) == len(hours) else None


def _step(gain: Plain) -> str:
    to = "all" if gain["share"] == 1 else said(gain["share"])
    return f"{said(gain['than'])} to {to} of them"


def _points(one: Plain) -> str:
    return f"{100 * one['value']:+.1f} ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"


def _percent(one: Plain) -> str:
    return "{value:.1%} ({low:.1%} to {high:.1%})".format(**one)


def main() -> None:
    """Runs both studies, writes their record and their page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    record.without_paths(FOLDER=given.folder)
    calm_process()
    if given.again:
        run_again(given.folder)
        return
    seeds, shares, epochs = (1, SHARES[1:3], 1) if given.quick else (SEEDS, SHARES, EPOCHS)
    found = {name: study(given.folder, name, seeds, shares, epochs) for name in ABILITIES}
    about = {name: {key: one[key] for key in KEPT} for name, one in found.items()}
    drawn = list(range(7, 7 + seeds))
    made = record.write("scaling", claims(found), seeds=drawn, quick=given.quick, margin=MARGIN, **about)
    text = page(made, _read("scaling_again"))
    print(text)
    if not given.quick:
        atomic_write(PAGE, text)


def run_again(folder: Path) -> None:
    """The last step of the general ability, and the page of both records."""
    found = study(folder / "again", "general", len(AGAIN_SEEDS), SHARES[-2:], EPOCHS, AGAIN_SEEDS[0], "scaling/2")
    about = {key: found[key] for key in KEPT if key != "seeds"}
    made = record.write("scaling_again", [claim_again(found)], seeds=AGAIN_SEEDS, margin=MARGIN,
                        **{**about, "command": "python -m benchmarks.scaling FOLDER --again"})  # fmt: skip
    first = _read("scaling")
    if first:
        atomic_write(PAGE, page(first, made))


def _read(name: str) -> Plain | None:
    path = record.RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    main()
