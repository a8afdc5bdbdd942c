"""The quieter sections of the page: luck, data, cost, provenance, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.report.gain import change
from keeptune.report.html import Markup, element, folded, table
from keeptune.report.words import amount, number, percent, points, seconds


def facts(certificate: Mapping[str, Any]) -> Markup:
    """Four numbers under the verdict."""
    target = certificate.get("target") or {}
    pooled = (certificate.get("retention") or {}).get("pooled") or {}
    leak = (certificate.get("format") or {}).get("leak") or {}
    cards: list[tuple[str, str]] = []
    if target:
        cards.append(
            (
                change(target),
                f"target, n = {target.get('n')} ({points(target.get('low'))} to {points(target.get('high'))})",
            )
        )
    if pooled:
        low, high = points(pooled.get("low")), points(pooled.get("high"))
        cards.append((f"{points(pooled.get('delta'))} points", f"general ability, pooled ({low} to {high})"))
    if leak:
        shown = f"{percent(leak.get('base'))} → {percent(leak.get('adapted'))}"
        cards.append((shown, "unrelated instructions answered in the training format"))
    share = (certificate.get("cost") or {}).get("trainable_share")
    trained = (certificate.get("cost") or {}).get("trainable_parameters")
    if trained is not None:
        shown = f"{trained:,}" + (f" ({100 * share:.3g}%)" if share else "")
        cards.append((shown, "trained parameters"))
    return element(
        "div", [element("div", element("b", b), element("span", s), class_="fact") for b, s in cards], class_="facts"
    )


def kinds_of_change(certificate: Mapping[str, Any]) -> Markup:
    """Drift and format, told apart."""
    drift = certificate.get("drift") or {}
    rows: list[list[object]] = []
    for where in ("task", "generic"):
        part = drift.get(where) if isinstance(drift.get(where), dict) else None
        if part:
            rows.append([f"{where} prompts", number(part.get("kl_to_base"), 4), percent(part.get("top1_agreement"))])
    if not rows and drift:
        rows.append(["all prompts", number(drift.get("kl_to_base"), 4), percent(drift.get("top1_agreement"))])
    return table(
        ["measured on", "KL to base, nats per token", "same first choice as the base"], rows, numeric=frozenset({1, 2})
    )


def luck(certificate: Mapping[str, Any]) -> Markup:
    """How sure one can be: seeds, power, noise floor, what was left out."""
    retention = certificate.get("retention") or {}
    power = certificate.get("power") or {}
    rows: list[list[object]] = [["scope", certificate.get("scope")], ["seeds", _plain(certificate.get("seeds"))],
                                ["deployment", certificate.get("deployment")]]  # fmt: skip
    for key, name in (("forecast", "power forecast before training"), ("attained", "power attained")):
        if power.get(key) is not None:
            rows.append([name, _plain(power[key])])
    if certificate.get("noise_floor") is not None:
        rows.append(["noise floor", _plain(certificate["noise_floor"])])
    parts = [table(["", ""], rows)]
    excluded = retention.get("excluded") or []
    if excluded:
        parts.append(
            folded(
                f"Left out of the verdict: {len(excluded)}",
                table(["ability", "reason"], [[e["name"], e["reason"]] for e in excluded]),
            )
        )
    return Markup("".join(parts))


def data_counts(data: Mapping[str, Any]) -> Markup:
    """Rows of each source: read, kept, dropped, cut."""
    sources = data.get("sources") or {}
    if not sources:
        return element("p", "No data was read by this run.", class_="note")
    keys = ("read", "kept", "dropped", "cut", "train", "dev", "test", "tokens", "learned_tokens")
    used = [key for key in keys if any(key in counts for counts in sources.values())]
    rows: list[list[object]] = [[name, *[_count(counts.get(key)) for key in used]] for name, counts in sources.items()]
    read = table(["source", *[key.replace("_", " ") for key in used]], rows, numeric=frozenset(range(1, len(used) + 1)))
    seen = data.get("contamination")
    return Markup("".join([read, seen_in_training(seen)])) if seen else read


def seen_in_training(parts: Sequence[Mapping[str, Any]]) -> Markup:
    """How many of the measured items training has seen; the parts by themselves when it has seen any."""
    kinds = ("exact", "near", "ngram")
    items = sum(part["items"] for part in parts)
    found = sum(part[kind] for part in parts for kind in kinds)
    if not found:
        return element("p", f"Of the {items:,} items of the proof, training has seen none.", class_="note")
    rows: list[list[object]] = [
        [part["measured"], f"{part['items']:,}", *[part[kind] for kind in kinds]]
        for part in parts
        if any(part[kind] for kind in kinds)
    ]
    titles = ["measured", "items", "asked in training", "nearly", "13 words in a row"]
    told = f"Of the {items:,} items of the proof, training has seen {found:,}"
    return folded(told, table(titles, rows, numeric=frozenset({1, 2, 3, 4})))


def cost(certificate: Mapping[str, Any]) -> Markup:
    """Time, memory and size."""
    spent = certificate.get("cost") or {}
    rows: list[list[object]] = []
    taken = spent.get("seconds")
    if isinstance(taken, Mapping):
        rows += [[f"time: {name}", seconds(value)] for name, value in taken.items()]
    else:
        rows.append(["time", seconds(taken)])
    rows.append(["peak memory", amount(spent.get("peak_bytes"))])
    if spent.get("training_peak_bytes") is not None:
        rows.append(["peak memory in training", amount(spent["training_peak_bytes"])])
    rows.append(["forecast of it", amount(spent.get("forecast_bytes"))])
    if spent.get("trainable_parameters") is not None:
        rows.append(["trained parameters", f"{spent['trainable_parameters']:,}"])
    return table(["", ""], rows)


def provenance(certificate: Mapping[str, Any], recipe: Mapping[str, Any], recipe_text: str) -> Markup:
    """Everything that another person needs to get the same result."""
    known = certificate.get("provenance") or {}
    rows: list[list[object]] = [
        [key.replace("_", " "), element("code", _plain(value))]
        for key, value in known.items()
        if value is not None and key != "contamination"
    ]
    parts = [table(["", ""], rows)]
    if recipe_text or recipe:
        parts.append(folded("The resolved recipe", element("pre", recipe_text)))
    return Markup("".join(parts))


def commands(folder_name: str) -> Markup:
    """What to do with the result."""
    lines = f"keeptune chat runs/{folder_name}\nkeeptune compare runs/{folder_name} OTHER_RUN"
    return element("pre", lines)


INCIDENTS = frozenset(
    {"step_skipped", "rolled_back", "commit_skipped", "commit_refused", "forked", "not_exact", "damaged", "died"}
    | {"out_of_memory", "optimizer_replaced", "nothing_is_learning", "stopped_early", "budget_spent", "tracker_failed"}
)


def event_list(events: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Warnings and incidents of the run; nothing when all was quiet."""
    told = [event for event in events if event.get("kind") in INCIDENTS]
    if not told:
        return None
    rows: list[list[object]] = [
        [event.get("time"), event.get("kind"), _plain({k: v for k, v in event.items() if k not in ("time", "kind")})]
        for event in told[:50]
    ]
    return folded(f"Events during the run: {len(told)}", table(["time", "kind", "what"], rows))


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "–" if value is None else str(value)


def _plain(value: object) -> str:
    """Nested values in one readable line."""
    if isinstance(value, Mapping):
        return "; ".join(
            f"{str(key).replace('_', ' ')}: {_plain(inner)}" for key, inner in value.items() if inner is not None
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(inner) for inner in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
