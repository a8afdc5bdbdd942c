"""`keeptune compare`: finished runs side by side on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keeptune.core.disk import prepare_output
from keeptune.core.errors import RecipeError
from keeptune.core.files import atomic_write
from keeptune.report.compare_page import Entry, compare_page, matched_rows, matched_score
from keeptune.report.gain import from_to, reached_text
from keeptune.report.run_files import read_run
from keeptune.report.words import SIGN, percent, points


def compare_runs(runs: Sequence[Path], output: Path, *, title: str = "", lead: str = "") -> dict[str, Any]:
    """Writes the page and returns what it shows as plain data, with a `text` for people.

    Raises:
        MachineError: a folder holds no certificate (E-RUN-UNFINISHED).
        RecipeError: two runs were measured on different items (E-COMPARE-ITEMS).
    """
    prepare_output(output, new=False)
    entries = [Entry.of(read_run(folder)) for folder in runs]
    _same_items(entries, runs)
    level = matched_score(entries)
    matched = matched_rows(entries, level) if level is not None else []
    atomic_write(output, compare_page(entries, title=title or _title(entries), lead=lead))
    lines = [_line(entry) for entry in entries]
    if level is not None:
        lines += ["", f"where each first {reached_text(entries[0].target, level)} on dev:"]
        lines += [
            f"  {row['name']:<12} leak {percent(row['at'].get('leak'))}, abilities {percent(row['at'].get('general'))}"
            for row in matched
        ]
    lines += ["", f"page  {output}"]
    rows = [{"name": entry.name, "certificate": dict(entry.certificate)} for entry in entries]
    return {"page": str(output), "runs": rows, "matched_score": level, "matched": matched, "text": "\n".join(lines)}


def _title(entries: Sequence[Entry]) -> str:
    """What the picture shows, in one sentence."""
    kept, undecided, lost = (", ".join(_names(entries, verdict)) for verdict in ("PASS", "UNDECIDED", "FAIL"))
    said = [f"{kept} learned the task and kept the rest"] if kept else []
    if undecided:
        said.append(f"{'what' if kept else 'What'} {undecided} kept cannot be told from this evidence")
    if lost:
        said.append(f"{lost} did not keep {'it' if kept else 'general ability'}")
    return "; ".join(said)


def _names(entries: Sequence[Entry], verdict: str) -> list[str]:
    return [entry.name for entry in entries if entry.certificate["verdict"] == verdict]


def _line(entry: Entry) -> str:
    pooled = (entry.certificate.get("retention") or {}).get("pooled") or {}
    leak = (entry.certificate.get("format") or {}).get("leak") or {}
    verdict = entry.certificate["verdict"]
    return (
        f"{SIGN[verdict]} {verdict:<9} {entry.name:<12} target {from_to(entry.target)}, "
        f"abilities {points(pooled.get('delta'))} points, "
        f"leak {percent(leak.get('base'))} → {percent(leak.get('adapted'))}"
    )


def _same_items(entries: Sequence[Entry], runs: Sequence[Path]) -> None:
    """Scores of different items cannot be compared, nor those of different targets."""
    told = [
        (entry, folder, (entry.target["metric"], entry.target["n"]))
        for entry, folder in zip(entries, runs, strict=True)
        if entry.target
    ]
    for entry, folder, (metric, items) in told:
        if (metric, items) != told[0][2]:
            raise RecipeError(
                f"the target of '{entry.name}' is {metric} on {items:,} items, that of '{told[0][0].name}' "
                f"{told[0][2][0]} on {told[0][2][1]:,}.",
                code="E-COMPARE-ITEMS", where={"file": folder}, fix="Prove both on the same --target and --metric.",
            )  # fmt: skip
    first = [(task["name"], task["n"]) for task in (entries[0].certificate.get("retention") or {}).get("tasks", [])]
    for entry, folder in zip(entries, runs, strict=True):
        own = [(task["name"], task["n"]) for task in (entry.certificate.get("retention") or {}).get("tasks", [])]
        if own != first:
            raise RecipeError(
                f"'{entry.name}' was measured on other tasks than '{entries[0].name}'.",
                code="E-COMPARE-ITEMS", where={"file": folder}, fix="Prove both on the same suite.",
            )  # fmt: skip
