"""Kinds of loss, told from scores: the form of the answers, what comes back after a reminder, knowledge.

    said      the suite's chat questions answered freely, right or wrong
    known     the same questions by likelihood
    format gap      (said_base - said_adapted) - (known_base - known_adapted): known, and no longer said
    recovered share (said_recovered - said_adapted) / (said_base - said_adapted), where something was lost
    knowledge       a task or corpus that fell by more than its margin and is still beyond it after the recovery
    represented     questions of the suite that a linear probe of the states answers
    states' gap     (known_base - known_adapted) - (represented_base - represented_adapted): held, and no longer put out

Each comparison is paired by item; a loss counts when its whole 90% interval lies beyond the margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.core.score import Score
from keeptune.stages._certificate import entry, number
from keeptune.stages._pairing import common, likely, more_lost
from keeptune.stages._states import States
from keeptune.statistics.comparison import Comparison
from keeptune.statistics.forecast import task_margin
from keeptune.statistics.noninferiority import compare_pooled
from keeptune.statistics.power import items_to_decide

SENTENCES = {
    "format": "Form: answers are known and no longer said, or unrelated requests are answered in the training form.",
    "recoverable": "Recoverable: what fell came back after 50 steps on the base's own answers, which teach no ability.",
    "knowledge": "Knowledge: what fell stayed lost after the recovery.",
    "drift": "Drift: answers moved, and nothing was lost.",
    "unchanged": "Nothing changed.",
    "inside": "Inside: the states still tell right answers from wrong ones where the output no longer does.",
    "unclear": "Something may have been lost, and these items are too few to say of which kind.",
}


def diagnose(
    base: Sequence[Score],
    adapted: Sequence[Score],
    recovered: Sequence[Score],
    margins: Mapping[str, Any],
    *,
    leak: Mapping[str, Any] | None,
    unchanged: bool,
) -> dict[str, Any]:
    """What the certificate holds under `diagnosis`.

    Args:
        base: retention, `spoken`, `represented` and `behaviour` of the base.
        adapted: the same of the adapted model.
        recovered: retention and `spoken` of the recovered copy; items that it was not asked are left out.
        margins: of the proof.
        leak: the certificate's format leak.
        unchanged: the models are one and the same.
    """
    said, known = _pool(base, adapted, "said_0_shot", margins), _known(base, adapted, margins)
    back, gap = _pool(base, recovered, "said_0_shot", margins), _gap(base, adapted)
    states = States.of(base, adapted, margins)
    inside = states.gap
    lost = _lost(base, adapted, recovered, margins)
    behaviour = {score.metric: _change(score, adapted) for score in base if score.task == "behaviour"}
    like = behaviour.get("training_like")
    kinds = []
    if (gap and gap.low > 0 and gap.delta > margins["pooled"]) or _rose(like) or (leak or {}).get("verdict") == "FAIL":
        kinds.append("format")
    if any(part["after_recovery"] != "lost" for part in lost):
        kinds.append("recoverable")
    if any(part["after_recovery"] == "lost" for part in lost):
        kinds.append("knowledge")
    if not kinds:
        kinds = ["unchanged" if unchanged else "unclear" if said and said.verdict == "FAIL" else "drift"]
    told = [*kinds, "inside"] if inside and inside.low > 0 and inside.delta > margins["pooled"] else kinds
    share = None
    if said and back and said.high < 0:
        share = min(1.0, max(0.0, (back.adapted - said.adapted) / (said.base - said.adapted)))
    return {
        "kinds": kinds,
        "sentences": [SENTENCES[kind] for kind in told],
        "said": entry(said),
        "known": entry(known),
        "represented": entry(states.held),
        "represented_left_out": states.left_out,
        "format_gap": entry(gap),
        "states_gap": entry(inside),
        "states_gap_items": None if inside is None else items_to_decide(inside),
        "recovered_share": share,
        "said_recovered": None if back is None else back.adapted,
        "shots": {str(k): entry(_pool(base, adapted, f"said_{k}_shot", margins)) for k in (1, 4)},
        "in_context": {one.metric: _change(one, adapted) for one in base if one.task == "in_context"},
        "lost": lost,
        "behaviour": behaviour,
    }


def _pool(base: Sequence[Score], other: Sequence[Score], metric: str, margins: Mapping[str, Any]) -> Comparison | None:
    """Free answers, equal weight per task."""
    pairs = [common(one, other) for one in base if one.metric == metric]
    tasks = [pair.as_task() for pair in pairs if pair is not None]
    return compare_pooled(tasks, margins["pooled"]) if tasks else None


def _asked(base: Sequence[Score]) -> dict[str, set[str]]:
    """The questions that were asked freely, by task."""
    return {score.task: {item.id for item in score.items} for score in base if score.metric == "said_0_shot"}


def _known(base: Sequence[Score], adapted: Sequence[Score], margins: Mapping[str, Any]) -> Comparison | None:
    """Likelihood accuracy on the very questions that were asked freely."""
    asked = _asked(base)
    pairs = [common(one, adapted, asked[one.task]) for one in base if one.kind == "accuracy" and one.task in asked]
    tasks = [pair.as_task() for pair in pairs if pair is not None]
    return compare_pooled(tasks, margins["pooled"]) if tasks else None


def _gap(base: Sequence[Score], adapted: Sequence[Score]) -> Comparison | None:
    """(said - known) of base against adapted: positive where the adapted model knows and does not say."""
    shown = [score for score in base if score.metric == "said_0_shot"]
    return more_lost([(score, likely(base, score.task)) for score in shown], adapted)


def _lost(
    base: Sequence[Score], adapted: Sequence[Score], recovered: Sequence[Score], margins: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Tasks and corpora that fell beyond their margin; both changes on the items that the copy was asked."""
    found = []
    for one in (score for score in base if score.kind in ("accuracy", "corpus")):
        margin = margins["corpus"] if one.kind == "corpus" else task_margin(margins, one.task)
        before, after = common(one, adapted), common(one, recovered)
        if before is None or after is None or before.compare(margin).verdict != "FAIL":
            continue
        shared = common(one, adapted, {item.id for item in after.base.items})
        assert shared is not None, "what the copy was asked, the adapted model was asked too"
        fell, left = shared.compare(margin), after.compare(margin)
        state = {"PASS": "recovered", "FAIL": "lost"}.get(left.verdict, "undecided")
        if left.verdict != "PASS" and abs(left.delta) <= abs(fell.delta) / 2:
            state = "mostly recovered"
        found.append(
            {
                "name": one.task,
                "kind": one.kind,
                "delta": number(fell.delta),
                "delta_after": number(left.delta),
                "after_recovery": state,
            }
        )
    return found


def _change(score: Score, adapted: Sequence[Score]) -> dict[str, Any] | None:
    pair = common(score, adapted)
    return None if pair is None else entry(pair.compare(0.0))


def _rose(part: Mapping[str, Any] | None) -> bool:
    return part is not None and part["low"] is not None and part["low"] > 0.02
