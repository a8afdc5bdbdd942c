"""The verdict as one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeptune.report.gain import target_value
from keeptune.report.words import NAMES, percent


def verdict_sentence(certificate: Mapping[str, Any]) -> str:
    """The first thing a reader sees: what the target gained, and whether the rest was kept."""
    if certificate.get("unchanged"):
        return "Nothing changed: the two models answer every item alike."
    target = certificate.get("target")
    gained = "No target was measured"
    if target:
        name = NAMES.get(target["metric"], target["metric"])
        base, adapted = (target_value(target, target[key]) for key in ("base", "adapted"))
        gained = f"The target went from {base} to {adapted} {name}"
    kept = {
        "PASS": "and general ability was kept",
        "FAIL": f"but {_lost(certificate)}",
        "UNDECIDED": "but whether general ability was kept cannot be told from this evidence",
    }[certificate["verdict"]]
    return f"{gained}, {kept}.{_worst_seed(certificate)}"


def _worst_seed(certificate: Mapping[str, Any]) -> str:
    """What the worst seed says by itself, where it says something else than all seeds together."""
    seeds = certificate.get("seeds")
    worst = seeds.get("worst_verdict") if isinstance(seeds, Mapping) else None
    if worst is None or worst == certificate["verdict"]:
        return ""
    return f" Seed {seeds['worst']}, the worst of {seeds['count']}, alone is {worst}."  # type: ignore[index]


def _lost(certificate: Mapping[str, Any]) -> str:
    """Which parts failed, in words."""
    lost = []
    leak = (certificate.get("format") or {}).get("leak") or {}
    if leak.get("verdict") == "FAIL":
        lost.append(f"{percent(leak['adapted'])} of unrelated instructions are answered in the training format")
    retention = certificate.get("retention") or {}
    tasks = [task["name"] for task in retention.get("tasks", []) if task["verdict"] == "FAIL"]
    corpora = [corpus["name"] for corpus in retention.get("corpora", []) if corpus["verdict"] == "FAIL"]
    if tasks:
        lost.append(f"it fell on {_listed(tasks)}")
    elif (retention.get("pooled") or {}).get("verdict") == "FAIL":
        lost.append("the pooled general score fell")
    if corpora:
        lost.append(f"its language model got worse on {_listed(corpora)}")
    return _listed(lost) or "general ability was not kept"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""
