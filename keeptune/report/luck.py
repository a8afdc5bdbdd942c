"""Is it luck? Seeds, power, noise floor, what was chosen on what, and everything that was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.report.html import Markup, folded, table
from keeptune.report.language import retell, say
from keeptune.report.words import percent, points

KINDS = {
    "batches": "other batches",
    "dtype": "other dtype",
    "paraphrase": "other wordings",
    "order": "other examples",
}
"""What was changed between two scorings of the base."""
DEPLOYED = {
    "always_on": "always on: proven as it answers everybody",
    "routed": "routed: proven with the adapter off outside its task",
}
Row = list[object]


def luck(certificate: Mapping[str, Any]) -> Markup:
    """How sure one can be: seeds, power, noise floor, what was left out."""
    power = certificate.get("power") or {}
    rows: list[Row] = [
        [say("scope"), say(str(certificate.get("scope")))],
        *_seeds(certificate.get("seeds")),
        [say("deployment"), say(DEPLOYED.get(str(certificate.get("deployment")), "–"))],
        *_power(power),
        *_noise(certificate.get("noise_floor")),
        [say("comparisons in the verdict"), _compared(certificate)],
        [say("chosen on"), _chosen(certificate)],
        *_looks(certificate.get("sequential")),
    ]  # fmt: skip
    excluded = (certificate.get("retention") or {}).get("excluded") or []
    return Markup(
        table(["", ""], rows)
        + _single_seeds(certificate.get("seeds"))
        + _needed(power.get("attained") or {})
        + _left_out(excluded)
        + _too_long(certificate.get("left_out") or [])
    )


def _seeds(seeds: object) -> list[Row]:
    values = seeds.get("values") if isinstance(seeds, Mapping) else seeds
    return [[say("seeds"), ", ".join(map(str, values))]] if isinstance(values, Sequence) else []


def _single_seeds(seeds: object) -> Markup:
    """What each seed says by itself, the worst one marked."""
    if not isinstance(seeds, Mapping) or not seeds.get("verdicts"):
        return Markup("")
    columns = (seeds["values"], seeds["verdicts"], seeds["target_deltas"], seeds["pooled_deltas"])
    rows: list[Row] = [
        [
            f"{seed} ({say('the worst')})" if seed == seeds.get("worst") else seed,
            say(verdict),
            points(gain),
            points(kept),
        ]
        for seed, verdict, gain, kept in zip(*columns, strict=True)
    ]
    titles = [say("seed"), say("verdict"), say("target, points"), say("all abilities, points")]
    return folded(say("Each seed by itself"), table(titles, rows, numeric=frozenset({2, 3})))


def _power(power: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for key, name in (
        ("forecast", "power, from the numbers of items"),
        ("attained", "power, with the flips that were seen"),
    ):
        told = power.get(key)
        if told is None or told.get("pooled_pass") is None:
            continue
        odds = say(
            "an unharmed model passes pooled in {pooled}, on every task in {every}",
            pooled=percent(told["pooled_pass"]), every=percent(told.get("every_task_passes")),
        )  # fmt: skip
        harmed = told.get("harmed")
        if harmed:
            odds += say(
                "; one that lost twice the margin fails pooled in {pooled}, on some task in {some}",
                pooled=percent(harmed["pooled_fail"]), some=percent(harmed["some_task_fails"]),
            )  # fmt: skip
        rows.append([say(name), odds])
    return rows


def _noise(floor: Mapping[str, Any] | None) -> list[Row]:
    """What moved the base while nothing was trained, by what was changed, and the ability that it moved most.

    The kinds are not put together: another wording is another question, and only batches and dtype are noise of these.
    """
    kinds = (floor or {}).get("kinds") or {}
    told = [
        say("{kind} {change} ({name})", kind=say(KINDS[kind]), change=_small(part["largest"]), name=_most_moved(part))
        for kind, part in kinds.items()
    ]
    return [[say("what moves the base untrained, points"), "; ".join(told)]] if told else []


def _most_moved(part: Mapping[str, Any]) -> str:
    return str(max(part["parts"], key=part["parts"].__getitem__))


def _small(value: float | None) -> str:
    """Points with a second digit where one would round them away."""
    return f"{100 * value:.2f}" if value is not None and abs(value) < 0.001 else points(value, sign=False)


def _compared(certificate: Mapping[str, Any]) -> str:
    """How many parts the verdict rests on."""
    retention = certificate.get("retention") or {}
    counted = len(retention.get("tasks") or []) + len(retention.get("corpora") or [])
    counted += bool(retention.get("pooled")) + bool((certificate.get("format") or {}).get("leak"))
    return say("{count}; all must pass, so a PASS needs no correction; a FAIL rests on one and has none", count=counted)


def _looks(looked: Mapping[str, Any] | None) -> list[Row]:
    if not looked:
        return []
    asked = say("look {look} of {looks}, {share} of the items", **{**looked, "share": percent(looked["share"])})
    return [[say("asked in parts"), asked]]


def _chosen(certificate: Mapping[str, Any]) -> str:
    """Whether somebody could have chosen by the rows that the proof rests on."""
    selection = certificate.get("selection")
    if selection is None:
        return say("not known: whoever made the models may have looked at these rows before")
    looked = selection.get("test_seen_in") or []
    if not looked:
        return say("dev rows; the test rows were looked at once, for this proof")
    return say(
        "the test rows were looked at before this proof (stage {stages}): if anything was chosen by that, the "
        "target's gain is too rosy",
        stages=", ".join(looked),
    )


def _needed(attained: Mapping[str, Any]) -> Markup:
    """The drop that each task could show, and the items that an undecided part still needs."""
    drops, needed = attained.get("detectable_drops") or {}, attained.get("items_to_decide") or {}
    names = list(dict.fromkeys([*drops, *needed]))
    if not names:
        return Markup("")
    rows: list[Row] = [
        [say(name), points(drops.get(name), sign=False), f"{needed[name]:,}" if needed.get(name) else "–"]
        for name in names
    ]
    titles = [say("ability"), say("drop that it finds with 80%, points"), say("items that would decide it")]
    return folded(say("What each ability could show"), table(titles, rows, numeric=frozenset({1, 2})))


def _left_out(excluded: Sequence[Mapping[str, Any]]) -> Markup:
    if not excluded:
        return Markup("")
    titles = [say("ability"), say("base"), say("adapted"), say("reason")]
    rows: list[Row] = [[one["name"], percent(one.get("base")), percent(one.get("adapted")), retell(one["reason"])]
                       for one in excluded]  # fmt: skip
    told = say("Left out of the verdict: {count}", count=len(excluded))
    return folded(told, table(titles, rows, numeric=frozenset({1, 2})))


def _too_long(parts: Sequence[Mapping[str, Any]]) -> Markup:
    """Items that one of the models cannot read whole."""
    if not parts:
        return Markup("")
    rows: list[Row] = [[one["name"], f"{one['of']:,}", f"{one['items']:,}"] for one in parts]
    told = say(
        "Longer than the context of {context} tokens, and left out of both sides: {count}",
        context=f"{parts[0]['context']:,}", count=f"{sum(one['items'] for one in parts):,}",
    )  # fmt: skip
    return folded(told, table([say("measured"), say("items"), say("left out")], rows, numeric=frozenset({1, 2})))
