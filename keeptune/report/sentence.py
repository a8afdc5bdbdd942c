"""The verdict as one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeptune.report.gain import target_value
from keeptune.report.language import say
from keeptune.report.words import NAMES, percent


def verdict_sentence(certificate: Mapping[str, Any]) -> str:
    """The first thing a reader sees: what the target gained, and whether the rest was kept."""
    if certificate.get("unchanged"):
        return say("Nothing changed: the two models answer every item alike.")
    target = certificate.get("target")
    gained = say("No target was measured")
    if target:
        name = NAMES.get(target["metric"], target["metric"])
        base, adapted = (target_value(target, target[key]) for key in ("base", "adapted"))
        gained = say("The target went from {base} to {adapted} {name}", base=base, adapted=adapted, name=say(name))
        gained += say(" (chance alone could do that)") if target["verdict"] == "UNDECIDED" else ""
    kept = {
        "PASS": say("and general ability was kept"),
        "FAIL": say("but {lost}", lost=_lost(certificate)),
        "UNDECIDED": say("but whether general ability was kept cannot be told from this evidence")
        + _needed(certificate),
    }[certificate["verdict"]]
    return say("{gained}, {kept}.", gained=gained, kept=kept) + _worst_seed(certificate)


def _worst_seed(certificate: Mapping[str, Any]) -> str:
    """What the worst seed says by itself, where it says something else than all seeds together."""
    seeds = certificate.get("seeds")
    worst = seeds.get("worst_verdict") if isinstance(seeds, Mapping) else None
    if worst is None or worst == certificate["verdict"]:
        return ""
    assert isinstance(seeds, Mapping), "a worst seed stands in a mapping"
    return " " + say(
        "Seed {seed}, the worst of {count}, alone is {verdict}.",
        seed=seeds["worst"], count=seeds["count"], verdict=say(str(worst)),
    )  # fmt: skip


def _needed(certificate: Mapping[str, Any]) -> str:
    """How many items would decide the part that needs the most of them."""
    attained = (certificate.get("power") or {}).get("attained") or {}
    needed = {name: items for name, items in (attained.get("items_to_decide") or {}).items() if items}
    if not needed:
        return ""
    most = max(needed, key=needed.__getitem__)
    if most == "pooled":
        return say("; about {items} items over all abilities would decide it", items=f"{needed[most]:,}")
    return say("; about {items} items of '{name}' would decide it", items=f"{needed[most]:,}", name=say(most))


def _lost(certificate: Mapping[str, Any]) -> str:
    """Which parts failed, in words."""
    lost = []
    leak = (certificate.get("format") or {}).get("leak") or {}
    if leak.get("verdict") == "FAIL":
        shown = percent(leak["adapted"])
        lost.append(say("{share} of unrelated instructions are answered in the training format", share=shown))
    retention = certificate.get("retention") or {}
    tasks = [task["name"] for task in retention.get("tasks", []) if task["verdict"] == "FAIL"]
    failed = [corpus for corpus in retention.get("corpora", []) if corpus["verdict"] == "FAIL"]
    corpora = [corpus["name"] for corpus in failed if corpus["adapted"] is not None]
    silent = [corpus["name"] for corpus in failed if corpus["adapted"] is None]
    if tasks:
        lost.append(say("it fell on {names}", names=_listed(tasks)))
    elif (retention.get("pooled") or {}).get("verdict") == "FAIL":
        lost.append(say("the pooled general score fell"))
    if corpora:
        lost.append(say("its language model got worse on {names}", names=_listed(corpora)))
    if silent:
        lost.append(say("its log-probabilities are not finite numbers on {names}", names=_listed(silent)))
    return _listed(lost) or say("general ability was not kept")


def _listed(names: list[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return say("{first} and {last}", first=say(", ").join(names[:-1]), last=names[-1])
