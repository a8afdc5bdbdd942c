"""The certificate: what base and adapted scores prove, as plain data. `docs/certificate.md` explains every key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.core.score import Score
from keeptune.stages._pairing import ScorePair, pair_up
from keeptune.stages._power import attained, forecast
from keeptune.statistics.admission import admit
from keeptune.statistics.comparison import LEVEL, Comparison
from keeptune.statistics.forecast import task_margin
from keeptune.statistics.mcnemar import holm, mcnemar_loss
from keeptune.statistics.noise import noise_floor, noise_floor_ratio
from keeptune.statistics.noninferiority import compare_pooled
from keeptune.statistics.verdict import retention_verdict, target_verdict

SCHEMA = 1
NEEDED_SEEDS = 3
"""Runs from which on a result speaks for the recipe and not for one checkpoint."""

COST = ("seconds", "peak_bytes", "forecast_bytes", "trainable_parameters")
Margin = Mapping[str, Any]


def build(
    base: Sequence[Score],
    adapted: Sequence[Score],
    margins: Margin,
    *,
    seeds: Sequence[int],
    deployment: str,
    same_model: bool | None,
    rescored: Mapping[str, Sequence[Score]],
    cost: Mapping[str, Any],
    provenance: Mapping[str, Any],
    level: float = LEVEL,
    whole: Sequence[Score] = (),
) -> dict[str, Any]:
    """See `prove.certify`."""
    pairs = pair_up(base, adapted)
    unchanged = _same(pairs) if same_model is None else same_model
    retention = Retained(pairs, margins, level, whole)
    leak = next((pair.compare(margins["leak"], level=level) for pair in pairs if pair.base.kind == "leak"), None)
    verdict = retention_verdict(
        retention.pooled, retention.tasks.values(), retention.corpora.values(), leak, same_model=unchanged
    )
    return {
        "schema": SCHEMA,
        "verdict": verdict,
        "unchanged": unchanged,
        "target": _target(pairs, ood=False),
        "retention": retention.to_dict(),
        "drift": _drift(adapted),
        "format": {
            "leak": entry(leak),
            "specialisation_index": entry(leak) and number(leak.delta) if leak else None,
            "format_gap": None,
            "recovered_share": None,
        },
        "diagnosis": None,
        "selection": None,
        "deployment": deployment,
        "ood": _target(pairs, ood=True),
        "power": {"forecast": forecast(retention.admitted, margins), "attained": attained(retention, leak, margins)},
        "noise_floor": _noise(base, rescored),
        "cost": {**dict.fromkeys(COST), **cost},
        "seeds": {"count": len(seeds), "values": list(seeds)},
        "scope": scope(len(seeds)),
        "margins": dict(margins),
        "level": level,
        "sequential": None,
        "left_out": None,
        "provenance": dict(provenance),
    }


class Retained:
    """The part of the proof about general ability.

    Attributes:
        admitted: the accuracy tasks that may speak.
        excluded: the others, each with its reason and both scores.
        tasks: the comparison of each admitted task, by name.
        corpora: of each corpus.
        pooled: of the equal-weight mean of the admitted tasks; None when none was admitted.
    """

    def __init__(
        self, pairs: Sequence[ScorePair], margins: Margin, level: float = LEVEL, whole: Sequence[Score] = ()
    ) -> None:
        asked = {(score.kind, score.task): score for score in whole}
        self.chance = {pair.base.task: pair.base.chance for pair in pairs}
        self.admitted: list[ScorePair] = []
        self.excluded: list[dict[str, Any]] = []
        own = {pair.base.task: task_margin(margins, pair.base.task) for pair in pairs}
        for pair in (pair for pair in pairs if pair.base.kind == "accuracy"):
            reason = _not_admitted(asked.get(("accuracy", pair.base.task), pair.base), own[pair.base.task])
            if reason is None:
                self.admitted.append(pair)
            else:
                scores = {"base": number(pair.base.value), "adapted": number(pair.adapted.value)}
                self.excluded.append({"name": pair.base.task, "reason": reason, **scores})
        self.tasks = {pair.base.task: pair.compare(own[pair.base.task], level=level) for pair in self.admitted}
        corpora = [pair for pair in pairs if pair.base.kind == "corpus"]
        self.corpora = {pair.base.task: pair.compare(margins["corpus"], level=level) for pair in corpora}
        finite = [pair for pair in self.admitted if pair.finite]
        pool = [pair.as_task() for pair in finite]
        self.pooled = compare_pooled(pool, margins["pooled"], level=level) if finite else None

    def to_dict(self) -> dict[str, Any]:
        """The certificate's `retention`."""
        return {
            "pooled": entry(self.pooled),
            "tasks": [named(name, part, self.chance[name]) for name, part in self.tasks.items()],
            "corpora": [named(name, part, None) for name, part in self.corpora.items()],
            "excluded": self.excluded,
            "fell": self._fell(),
        }

    def _fell(self) -> list[dict[str, Any]]:
        """Tasks with more losses than gains than chance explains: mid-p McNemar, Holm over the tasks, below 0.05."""
        flips = [
            (name, part.flips_wrong_to_right, part.flips_right_to_wrong)
            for name, part in self.tasks.items()
            if part.flips_wrong_to_right is not None and part.flips_right_to_wrong is not None
        ]
        adjusted = holm([mcnemar_loss(gains, losses) for _, gains, losses in flips])
        return [{"name": name, "p": p} for (name, _, _), p in zip(flips, adjusted, strict=True) if p < 0.05]


def entry(part: Comparison | None) -> dict[str, Any] | None:
    """A comparison as the certificate shows it; null when there is none, and for numbers that are not finite."""
    if part is None:
        return None
    return {
        "base": number(part.base),
        "adapted": number(part.adapted),
        "delta": number(part.delta),
        "low": number(part.low),
        "high": number(part.high),
        "level": part.level,
        "margin": part.margin,
        "verdict": part.verdict,
        "n": part.n,
        "higher_is_better": part.higher_is_better,
        "flips_right_to_wrong": part.flips_right_to_wrong,
        "flips_wrong_to_right": part.flips_wrong_to_right,
        "discordance": part.discordance,
        "effective_clusters": number(part.effective_clusters),
        "unchanged": part.unchanged,
        "method": part.method,
        "note": part.note,
    }


def named(name: str, part: Comparison, chance: float | None) -> dict[str, Any]:
    """The entry of a task or corpus."""
    return {"name": name, "chance": chance, **(entry(part) or {})}


def scope(seeds: int) -> str:
    """What a result speaks for."""
    return "this recipe" if seeds >= NEEDED_SEEDS else "this checkpoint"


def _same(pairs: Sequence[ScorePair]) -> bool:
    """Every item of every score is bitwise the same, among them scores of general ability."""
    evidence = any(pair.base.kind in ("accuracy", "corpus") for pair in pairs)
    return evidence and all(pair.identical for pair in pairs)


def _not_admitted(base: Score, margin: float) -> str | None:
    """Why a task may not speak; None when it may."""
    if base.binary:
        found = admit([item.score for item in base.items], base.chance or 0.0, margin)
        return None if found.admitted else found.reason
    if base.value < 5 * margin:
        return f"base {base.value:.3f}: less than 5 margins of {margin:.3f} above nothing"
    return None


def _target(pairs: Sequence[ScorePair], *, ood: bool) -> dict[str, Any] | None:
    found = [pair for pair in pairs if pair.base.kind == "target" and pair.base.task.endswith("/ood") == ood]
    if not found:
        return None
    part = found[0].compare(0.0)
    plain = entry(part) or {}
    del plain["margin"]
    verdict = target_verdict(part) if found[0].finite else "LOST"
    return {"metric": found[0].base.metric, **plain, "verdict": verdict, "chance": found[0].base.chance}


def _drift(adapted: Sequence[Score]) -> dict[str, Any] | None:
    """KL and agreement on generic prompts; `task` and `generic` hold both parts."""
    parts: dict[str, dict[str, Any]] = {}
    for score in adapted:
        if score.kind == "drift":
            parts.setdefault(score.task.removesuffix("_prompts"), {})[score.metric] = number(score.value)
    if not parts:
        return None
    main = parts.get("generic") or parts.get("task") or {}
    return {
        "kl_to_base": main.get("kl_to_base"),
        "top1_agreement": main.get("top1_agreement"),
        "task": parts.get("task"),
        "generic": parts.get("generic"),
    }


def _noise(base: Sequence[Score], rescored: Mapping[str, Sequence[Score]]) -> dict[str, Any] | None:
    """Base against base under each change of the scoring, on the items that all its scorings have."""
    kinds = {kind: found for kind, scores in rescored.items() if (found := _moved(base, scores))}
    if not kinds:
        return None
    parts: dict[str, float] = {}
    for found in kinds.values():
        for task, floor in found["parts"].items():
            parts[task] = max(floor, parts.get(task, 0.0))
    scorings = max(found["scorings"] for found in kinds.values())
    return {"largest": max(parts.values()), "parts": parts, "scorings": scorings, "kinds": kinds}


def _moved(base: Sequence[Score], again: Sequence[Score]) -> dict[str, Any] | None:
    """The floor of each task over its scorings, the base's own among them where there is one."""
    floors: dict[str, float] = {}
    most = 0
    for key in dict.fromkeys((score.kind, score.task, score.metric) for score in again):
        alike = [one for one in (*base, *again) if (one.kind, one.task, one.metric) == key]
        scores = [{item.id: item.score for item in score.items} for score in alike]
        shared = [item for item in scores[0] if all(item in own for own in scores)]
        if len(scores) < 2 or not shared:
            continue
        measure = noise_floor_ratio if key[0] == "corpus" else noise_floor
        floors[key[1]] = measure([[own[item] for item in shared] for own in scores]).floor
        most = max(most, len(scores))
    return {"largest": max(floors.values()), "parts": floors, "scorings": most} if floors else None


def number(value: float | None) -> float | None:
    """A number as the certificate shows it: null when it is not finite."""
    return value if value is not None and math.isfinite(value) else None
