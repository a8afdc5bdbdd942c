"""The certificate of a recipe: what three or more seeds say together, the worst of them named beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from keeptune.core.score import Score
from keeptune.stages._certificate import entry, named
from keeptune.stages._pairing import ScorePair, pair_up
from keeptune.statistics.comparison import Comparison
from keeptune.statistics.seeds import compare_over_seeds, crossed_sums
from keeptune.statistics.verdict import retention_verdict, target_verdict

Certificate = Mapping[str, Any]
Measured = tuple[Sequence[Score], Sequence[Score]]
"""Scores of the base, scores of the adapted model."""
Pairs = Mapping[tuple[str, str], ScorePair]
NUMBERS = ("base", "adapted", "delta", "low", "high", "effective_clusters")


def over_seeds(certificates: Sequence[Certificate], measured: Sequence[Measured]) -> dict[str, Any]:
    """`verdict`, `target`, `retention`, `format` and `ood` of the recipe, each part over all its seeds."""
    seeds: list[Pairs] = [{(pair.base.kind, pair.base.task): pair for pair in pair_up(*sides)} for sides in measured]
    retained = [one["retention"] for one in certificates]

    def over_list(place: str, kind: str) -> dict[str, Comparison]:
        names = [part["name"] for part in retained[0][place]]
        own = [{part["name"]: part for part in one[place]} for one in retained]
        return {name: over(seeds, [parts[name] for parts in own], [(kind, name)]) for name in names}

    def target(place: str, *, ood: bool) -> dict[str, Any] | None:
        parts = [one[place] for one in certificates]
        if not all(parts):
            return None
        found = over(seeds, parts, [next(k for k in seeds[0] if k[0] == "target" and k[1].endswith("/ood") == ood)])
        finite = all(part["low"] is not None for part in parts)
        plain = {name: value for name, value in (entry(found) or {}).items() if name != "margin"}
        return {**parts[0], **plain, "verdict": target_verdict(found) if finite else "LOST"}

    tasks, corpora = over_list("tasks", "accuracy"), over_list("corpora", "corpus")
    pooled = leak = None
    whole = [key for key in (("accuracy", name) for name in tasks) if all(pairs[key].finite for pairs in seeds)]
    if all(one["pooled"] for one in retained) and whole:
        pooled = over(seeds, [one["pooled"] for one in retained], whole)
    if certificates[0]["format"]["leak"]:
        leak = over(seeds, [one["format"]["leak"] for one in certificates], [("leak", "format_leak")])
    chance = {part["name"]: part["chance"] for part in retained[0]["tasks"]}
    first = certificates[0]
    return {
        "verdict": retention_verdict(
            pooled, tasks.values(), corpora.values(), leak, same_model=all(one["unchanged"] for one in certificates)
        ),
        "target": target("target", ood=False),
        "ood": target("ood", ood=True),
        "retention": {
            **first["retention"],
            "pooled": entry(pooled),
            "tasks": [named(name, part, chance[name]) for name, part in tasks.items()],
            "corpora": [named(name, part, None) for name, part in corpora.items()],
            "excluded": [_excluded(part, [one["excluded"] for one in retained]) for part in retained[0]["excluded"]],
            "fell": [],
        },
        "format": {
            **first["format"],
            "leak": entry(leak),
            "specialisation_index": None if leak is None else leak.delta,
        },
    }


def _excluded(part: Mapping[str, Any], seeds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """A task that may not speak, with the means of its scores over the seeds that leave it out."""
    own = [one for found in seeds for one in found if one["name"] == part["name"]]
    means = {
        side: None if None in values else sum(values) / len(own)
        for side in ("base", "adapted")
        if (values := [one[side] for one in own])
    }
    return {**part, **means}


def over(seeds: Sequence[Pairs], parts: Sequence[Mapping[str, Any]], keys: Sequence[tuple[str, str]]) -> Comparison:
    """One part of the certificate over all seeds, from the items of the scores behind it."""
    strata = [crossed_sums([_changes(pairs[key]) for pairs in seeds]) for key in keys]
    return compare_over_seeds([comparison_of(part) for part in parts], strata)


def comparison_of(part: Mapping[str, Any]) -> Comparison:
    """The comparison behind an entry of a certificate; numbers that were not finite are not numbers again."""
    plain: dict[str, Any] = {field.name: part.get(field.name) for field in fields(Comparison)}
    plain |= {name: math.nan for name in NUMBERS if plain[name] is None}
    return Comparison(**{**plain, "margin": plain["margin"] or 0.0})


def _changes(pair: ScorePair) -> tuple[list[float], list[float] | None, list[str]]:
    base, adapted = ([item.score for item in side.items] for side in (pair.base, pair.adapted))
    change = [new - old for old, new in zip(base, adapted, strict=True)]
    return change, base if pair.base.metric == "bits_per_byte" else None, pair.clusters
