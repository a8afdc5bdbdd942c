"""DMT against sequential and multi-task training on three generated abilities: does a small k keep the first one?

    python -m benchmarks.dmt FOLDER            # goes on where it stopped; writes results/dmt.json, docs/results/dmt.md
    python -m benchmarks.dmt FOLDER --quick    # one seed, two k, a tenth of the rows; prints

`task` (words in reversed order) and `second` (how many words) are special abilities with bare answers, `general`
is five kinds of request answered by a polite sentence. All are learned by full tuning of pocket, in the order task,
second, general; scores are exact matches on contents that no row of the training shares. FOLDER holds the runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import record
from keeptune.core.files import atomic_write, make_folder
from keeptune.core.machine import calm_process
from keeptune.pocket.skills import SKILLS, SkillItem, split
from keeptune.pocket.words import WORDS
from keeptune.report.words import took
from keeptune.studies._session import run_study

ROWS = {"task": 768, "second": 384, "general": 512}
TEST = 200
RATE = 1e-3
SHARES = (1 / 256, 1 / 32, 1 / 4)
GENERAL = ("category", "position", "comparison", "copying", "lookup")
BESIDE = ("sequential", "multitask")
MARGIN = 0.05
"""Of the general ability, against multi-task training; fixed before any run was measured."""
PAGE = Path(__file__).parent.parent / "docs" / "results" / "dmt.md"


def reversal(random: Random) -> SkillItem:
    """Three or four words in reversed order."""
    words = random.sample(WORDS, random.randint(3, 4))
    wording = random.choice(("Reverse the order: {}", "Say these words backwards: {}", "Turn this list around: {}"))
    return SkillItem("reversal", wording.format(" ".join(words)), " ".join(reversed(words)), (), " ".join(words))


def counting(random: Random) -> SkillItem:
    """How many words are listed: two to nine."""
    words = random.sample(WORDS, random.randint(2, 9))
    wording = random.choice(("How many words are these: {}", "Count these words: {}", "The length of this list: {}"))
    return SkillItem("counting", wording.format(" ".join(words)), str(len(words)), (), " ".join(words))


def polite(random: Random) -> SkillItem:
    """One of five of pocket's abilities, answered in a sentence that it does not use."""
    item = SKILLS[random.choice(GENERAL)](random)
    return SkillItem(item.skill, item.prompt, f"Certainly. {item.answer.rstrip('.')}. Is there more?", (), item.key)


ABILITIES: dict[str, Callable[[Random], SkillItem]] = {
    "task": reversal, "second": counting, "general": polite,
}  # fmt: skip


def rows(name: str, train: int, test: int, seed: str = "dmt") -> list[dict[str, str]]:
    """The rows of an ability; a row's part is a hash of its content, and no question comes twice."""
    random, left, asked = Random(f"{seed}|{name}"), {"train": train, "test": test}, set[str]()
    made = []
    while any(left.values()):
        item = ABILITIES[name](random)
        part = split(item)
        if left[part] and item.prompt not in asked:
            asked.add(item.prompt)
            left[part] -= 1
            made.append({"prompt": item.prompt, "completion": item.answer, "split": part})
    return made


def settings(folder: Path, share: float = 1.0, seed: str = "dmt") -> list[str]:
    """The recipe's data, its rate, and its proof."""
    make_folder(folder)
    found = []
    for name, count in ROWS.items():
        path = folder / f"{name}.jsonl"
        own = rows(name, round(share * count), round(share * TEST), seed)
        atomic_write(path, "".join(json.dumps(row) + "\n" for row in own))
        found.append(f"data.{name}={{format: prompt_completion, path: {path.resolve()}}}")
    found += [f"stages[{place}].optimizer.lr={RATE}" for place in range(2)]
    return [
        *found,
        "split={dev: 0, test: 0.2}",
        "proof={target: {data: task, metric: exact_match, max_new_tokens: 32}}",
    ]


def choices(seeds: int, shares: tuple[float, ...]) -> list[str]:
    """The study's settings."""
    return [
        "design=dmt_k", f"design.shares={list(shares)}", f"beside={list(BESIDE)}", f"seeds={seeds}", "abilities=false",
        "metrics={second: exact_match, general: exact_match}",
    ]  # fmt: skip


def claims(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the paper says, each with its figure, and whether the interval shows it, denies it, or leaves it open."""
    found = []
    for one in result["contrasts"]:
        share = next(cell["at"]["k"] for cell in result["cells"] if cell["label"] == one["cell"])
        ends = {key: one[key] for key in ("value", "low", "high")}
        if (one["domain"], one["than"]) == ("task", "sequential"):
            found.append(
                {"claim": f"k = {said(share)}: more of the first ability than sequential", **ends, "above": 0.0}
            )
        if (one["domain"], one["than"]) == ("general", "multitask"):
            text = f"k = {said(share)}: at most {100 * MARGIN:g} points less general ability than multi-task"
            found.append({"claim": text, **ends, "above": -MARGIN})
    for one in result["trends"]:
        if one["domain"] == "task":
            ends = {key: one[key] for key in ("value", "low", "high")}
            found.append({"claim": "a doubling of k brings more of the first ability", **ends, "above": 0.0})
    for one in found:
        one["verdict"] = "shown" if one["low"] > one["above"] else "denied" if one["high"] < one["above"] else "open"
    return found


def page(result: dict[str, Any]) -> str:
    """The record as a document."""
    domains = [one["name"] for one in result["domains"]]
    items = result["domains"][0]["n"]
    lines = [
        "# DMT on three generated abilities",
        "",
        "```sh\npython -m benchmarks.dmt FOLDER\n```",
        "",
        f"Full tuning of pocket, rate {RATE:g}, {result['tokens']:,} tokens a run, the same for all; rows: "
        f"{', '.join(f'{name} {count}' for name, count in ROWS.items())}. `task` is reversing words, `second` counting "
        f"them, `general` five kinds of request with polite answers, learned last. Exact match on {items} rows each "
        f"whose contents are in no training row; {len(result['seeds'])} seeds, 90% intervals over seeds and items. "
        + took(result.get("hours"), result["machine"]["processor"]),
        "",
        f"| training | {' | '.join(domains)} |",
        "|---|" + "---|" * len(domains),
        "| the base | " + " | ".join(f"{one['base']:.1%}" for one in result["domains"]) + " |",
    ]
    for cell in result["cells"]:
        name = cell["label"] if cell["beside"] else f"DMT, k = {said(cell['at']['k'])}"
        shown = " | ".join(
            "{value:.1%} ({low:.1%} to {high:.1%})".format(**cell["scores"][domain]) for domain in domains
        )
        lines.append(f"| {name} | {shown} |")
    lines += ["", "| what the paper says (arXiv:2310.05492) | points | |", "|---|---|---|"]
    for one in claims(result):
        ends = " to ".join(f"{100 * one[key]:+.1f}" for key in ("low", "high"))
        lines.append(f"| {one['claim']} | {100 * one['value']:+.1f} ({ends}) | {one['verdict']} |")
    lines += ["", *(sentence(one) for one in result["trends"] if one["domain"] != "task"), ""]
    return "\n".join(lines)


def said(share: float) -> str:
    """A share as one part of so many."""
    return f"1/{1 / share:.0f}"


def sentence(trend: dict[str, Any]) -> str:
    """What a doubling of k does to another ability."""
    ends = " to ".join(f"{100 * trend[key]:+.1f}" for key in ("low", "high"))
    return f"A doubling of k changes `{trend['domain']}` by {100 * trend['value']:+.1f} points ({ends})."


def main() -> None:
    """Runs the study, writes its record and its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    record.without_paths(FOLDER=given.folder)
    calm_process()
    seeds, shares, size = (1, SHARES[1:], 0.1) if given.quick else (3, SHARES, 1.0)
    result = run_study("mixture", "dmt", given.folder / "study", settings(given.folder, size), choices(seeds, shares))
    about = {key: result[key] for key in ("tokens", "domains", "cells", "contrasts", "trends", "hours")}
    drawn = list(range(7, 7 + seeds))
    made = record.write("dmt", claims(result), seeds=drawn, quick=given.quick, margin=MARGIN, **about)
    text = page(made)
    print(text)
    if not given.quick:
        atomic_write(PAGE, text)


if __name__ == "__main__":
    main()
