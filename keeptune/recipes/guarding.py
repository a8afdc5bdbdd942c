"""The guard of a run: a part of the suite and the dev rows of the target are its own; the proof asks the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from keeptune.core.errors import RecipeError
from keeptune.core.events import read_lines
from keeptune.data.suite_parts import set_apart
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations.drift import Drift
from keeptune.evaluations.format_drift import FormatDrift
from keeptune.evaluations.halves import Halves
from keeptune.evaluations.retention import Retention
from keeptune.evaluations.target import Target
from keeptune.stages._guard import Guarding

if TYPE_CHECKING:
    from keeptune.recipes.recipe import Recipe

SCALES = {"": 1.0, "pt": 0.01, "%": 0.01}
_BUDGET = re.compile(r"\s*(forget|bits|kl)\s*=\s*([0-9.eE+-]+)\s*(pt|%|)\s*")


def budget_settings(budgets: Sequence[str]) -> list[str]:
    """`--budget forget=2pt` as settings of the recipe: `guard.budget.forget=0.02`.

    Raises:
        RecipeError: it cannot be read (E-USAGE-BUDGET).
    """
    settings = []
    for budget in budgets:
        found = _BUDGET.fullmatch(budget)
        try:
            value = float(found[2]) * SCALES[found[3]] if found else None
        except ValueError:
            value = None
        if found is None or value is None:
            raise RecipeError(
                f"the budget '{budget}' cannot be read.",
                code="E-USAGE-BUDGET",
                fix="Write forget=2pt (points of ability or format), bits=1% (per byte) or kl=0.05 (nats a token).",
            )
        settings.append(f"guard.budget.{found[1]}={value:g}")
    return settings


def guarded(recipe: Recipe, context: Context) -> tuple[Context, Guarding | None]:
    """The context of the proof without what the guard asks, and the guard; as it was without a guard.

    Raises:
        RecipeError: the guard has nothing to hold a limit against (E-GUARD-NOTHING).
    """
    if recipe.guard is None:
        return context, None
    target = recipe.proof.target if recipe.proof and isinstance(recipe.proof.target, Target) else None
    part, rest = set_apart(context.suite, recipe.guard.share, recipe.guard.items) if context.suite else (None, None)
    data = dict(context.data)
    if target is not None:
        # In the guard's eyes the dev rows are the test: evaluations ask for that split.
        data[f"{target.data}/test"] = data.pop(f"{target.data}/dev", [])[: recipe.guard.items]
    own = replace(context, suite=part, data={name: rows for name, rows in data.items() if rows})
    return replace(context, suite=rest), Guarding(recipe.guard, _evaluations(recipe, target, own), own)


def told(folder: Path) -> list[str]:
    """One line for every stage of a run that ended because its budget was spent."""
    lines = {}
    for event in read_lines(folder / "events.jsonl"):
        if event.get("kind") == "budget_spent":
            form = "{:.3f} nats" if event["what"] == "kl" else "{:.1%}" if event["what"] == "bits" else "{:.1f} points"
            scale = 100 if event["what"] == "forget" else 1
            value, limit = (form.format(event[key] * scale) for key in ("value", "limit"))
            kept = f"step {event['kept_step']} is kept, the best inside the budget"
            if not event["kept_step"]:
                kept = "it was beyond the budget at the first look, and what the stage began with is kept"
            lines[event["stage"]] = (
                f"guard  stage {event['stage']} was stopped at step {event['step']}: {event['what']} {value}, "
                f"{limit} allowed; {kept}"
            )
    return list(lines.values())


def _evaluations(recipe: Recipe, target: Target | None, context: Context) -> list[Evaluation]:
    """What the guard looks at, as far as there is something to look at."""
    assert recipe.guard is not None, "called for a guard"
    assert context.base is not None, "a guard compares with a base"
    subject = context.subject(context.base)
    speaks = subject.speaks
    chosen: list[Evaluation] = []
    has_dev = target is not None and f"{target.data}/test" in context.data
    if target is not None and has_dev:
        chosen.append(target.model_copy(update={"split": "test"}))
    if context.suite is not None and subject.kind != "image":
        chosen.append(Retention() if speaks else Halves())
    if speaks and target is not None and context.suite is not None:
        chosen.append(FormatDrift(data=target.data, pattern=recipe.proof.leak if recipe.proof else None))
    if speaks and target is not None and has_dev:
        chosen.append(Drift(data=target.data, rows=recipe.guard.items))
    suite, missing = context.suite, []
    limits = recipe.guard.budget.limits
    if "forget" in limits and not (suite and (suite.tasks or suite.generations or suite.instructions)):
        missing.append("forget needs questions or requests in the suite")
    if "bits" in limits and not (suite and suite.corpora):
        missing.append("bits needs a corpus in the suite")
    if "kl" in limits and not (speaks and has_dev):
        missing.append("kl needs dev rows of a target, and a model that writes")
    if missing:
        raise RecipeError(
            f"the guard has nothing to hold its budget against: {'; '.join(missing)}.",
            code="E-GUARD-NOTHING",
            where={"key": "guard.budget"},
            fix="Give the recipe a proof with a target and a suite, raise guard.share, or take the limit out.",
        )
    return chosen
