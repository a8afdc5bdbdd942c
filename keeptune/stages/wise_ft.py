"""WiSE-FT: weights between the base and the adapted model, as far from the base as dev allows (arXiv:2109.01903)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import PlanError, RecipeError
from keeptune.core.score import Score
from keeptune.stages import Stage, StageWork

if TYPE_CHECKING:
    from keeptune.stages._interpolation import Line

BOUND = 1.645
"""Standard errors of a one-sided 95% bound."""


class WiseFt(Stage):
    """theta(a) = theta_0 + a (theta - theta_0): the largest `a` whose loss is bounded below `forget` on dev.

    Of a trained base, all weights are interpolated; of a LoRA, its update is scaled. Strengths are tried from the
    smallest, and the first that does not pass ends the search: in this fixed order no correction for several looks is
    needed. A strength passes when the one-sided 95% bounds of the accuracy lost and of the leak gained, on the guard's
    own questions, are both at most `forget`. When none passes, the base is the result.
    """

    alphas: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[0.2, 0.4, 0.6, 0.8, 1.0], min_length=1, max_length=50, description="strengths to try"
    )
    forget: float = Field(
        0.03, gt=0, le=1, description="most that may be lost, in points of ability or format; 0.03: 3"
    )

    def run(self, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
        """Writes the weights of the chosen strength; every strength tried stands in the events under `wise_ft`.

        Raises:
            RecipeError: the recipe has no guard, whose questions decide (E-WISE-GUARD).
            PlanError: what was adapted cannot be scaled (E-WISE-KIND).
        """
        from keeptune.stages._interpolation import line_of, write

        if work.guard is None or work.guard.context.suite is None:
            raise RecipeError(
                "this stage chooses on questions that the proof does not ask, and the recipe keeps none apart.",
                code="E-WISE-GUARD",
                where={"key": f"stages[{work.index}]"},
                fix="Add to the recipe: guard: {share: 0.2, items: 300}",
            )
        assert work.base is not None, "a run has a base"
        line = line_of(work.open(checkpoint), work.open(work.base), checkpoint, work.base)
        if line is None:
            raise PlanError(
                "the newest adapter is no LoRA, and only LoRA's update and a trained base can be scaled.",
                code="E-WISE-KIND",
                where={"key": f"stages[{work.index}]"},
                fix="Train with full, freeze or lora before this stage.",
            )
        tried = self._tried(line, checkpoint, work)
        chosen = max((row["alpha"] for row in tried if row["passed"]), default=0.0)
        work.run.event("wise_ft", stage=self.label, alpha=chosen, tried=tried)
        work.progress.say(f"wise_ft: {chosen:g} of the way from the base, of " + ", ".join(map(_told, tried)))
        if chosen == 0.0:
            return work.base
        line.put(chosen)
        return write(line, checkpoint, work.folder)

    def _tried(self, line: Line, checkpoint: Checkpoint, work: StageWork) -> list[dict[str, Any]]:
        assert work.guard is not None, "checked before"
        tried: list[dict[str, Any]] = []
        with work.progress.track(self.label, len(self.alphas)) as track:
            for alpha in sorted(set(self.alphas)):
                line.put(alpha)
                base, now = work.guard.scores(line.loaded, checkpoint.adapters)
                target = next((score.value for score in now if score.kind == "target"), None)
                bound = lost_at_most(base, now)
                tried.append({"alpha": alpha, "target": target, "bound": bound, "passed": bound <= self.forget})
                track.advance(alpha=alpha, bound=bound)
                if not tried[-1]["passed"]:
                    break
        return tried


def lost_at_most(base: Sequence[Score], now: Sequence[Score]) -> float:
    """The greater of the upper 95% bounds of the pooled accuracy lost and of the leak gained, paired by item.

        mean of tasks of mean(base - now) + 1.645 sqrt(sum_k v_k) / K,   v = (sum (d - mean)^2 + 1) / n^2

    One more discordant item is counted than was seen, so that few items without a flip do not pass as proof.
    """
    differences: dict[str, list[list[float]]] = {"accuracy": [], "leak": []}
    for before, after in zip(base, now, strict=True):
        if before.kind in differences:
            sign = 1.0 if before.kind == "accuracy" else -1.0
            pairs = zip(before.items, after.items, strict=True)
            differences[before.kind].append([sign * (one.score - other.score) for one, other in pairs])
    return max(_upper(parts) for parts in differences.values() if parts)


def _upper(parts: Sequence[Sequence[float]]) -> float:
    means = [sum(part) / len(part) for part in parts]
    spreads = [
        (sum((d - mean) ** 2 for d in part) + 1) / len(part) ** 2 for part, mean in zip(parts, means, strict=True)
    ]
    return sum(means) / len(parts) + BOUND * math.sqrt(sum(spreads)) / len(parts)


def _told(row: dict[str, Any]) -> str:
    target = "" if row["target"] is None else f", target {row['target']:.1%}"
    return f"{row['alpha']:g} (at most {100 * row['bound']:.1f} points lost{target})"
