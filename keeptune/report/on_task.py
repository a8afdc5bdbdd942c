"""The target in numbers: the task's own rows, and those out of distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeptune.report.gain import is_saving, target_value
from keeptune.report.html import Markup, element, table
from keeptune.report.language import say
from keeptune.report.words import NAMES, points


def on_task(certificate: Mapping[str, Any]) -> Markup | None:
    """A row for the task and one for the shifted rows; nothing without a target."""
    target, shifted = certificate.get("target"), certificate.get("ood")
    if not target:
        return None
    rows = [_row(say("rows of the task"), target)]
    rows += [_row(say("rows out of distribution"), shifted)] if shifted else []
    metric = NAMES.get(target["metric"], target["metric"])
    titles = [say(metric), say("base"), say("adapted"), say("change (90% interval)"), say("verdict"), say("items"),
              say("right → wrong"), say("wrong → right")]  # fmt: skip
    shown = table(titles, rows, numeric=frozenset({1, 2, 3, 5, 6, 7}))
    note = say(
        "A method that learned the task better is usually better out of distribution too: that alone is no robustness."
    )
    return Markup(shown + element("p", note, class_="note")) if shifted else shown


def _row(name: str, part: Mapping[str, Any]) -> list[object]:
    unit = "%" if is_saving(part) else ""
    ends = say("{low} to {high}", low=points(part.get("low")), high=points(part.get("high")))
    return [
        name, target_value(part, part.get("base")), target_value(part, part.get("adapted")),
        f"{points(part.get('delta'))}{unit} ({ends})", say(str(part.get("verdict"))), part.get("n"),
        part.get("flips_right_to_wrong"), part.get("flips_wrong_to_right"),
    ]  # fmt: skip
