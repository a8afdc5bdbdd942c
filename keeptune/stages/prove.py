"""Holds the adapted model against its base and writes the certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import RecipeError
from keeptune.core.score import Score
from keeptune.core.spec import Spec
from keeptune.stages import Stage, StageWork
from keeptune.statistics.comparison import LEVEL

if TYPE_CHECKING:
    from keeptune.stages._seeds import Measured

ORDER = ("FAIL", "UNDECIDED", "PASS")


class Margins(Spec):
    """The largest losses that count as kept; fixed before training."""

    pooled: float = Field(0.01, gt=0, le=0.5, description="of the mean accuracy over tasks, a fraction")
    task: float = Field(0.03, gt=0, le=0.5, description="of each task's accuracy")
    tasks: dict[str, float] = Field(
        default_factory=dict, max_length=200, description="of single tasks instead of `task`; `plan` proposes them"
    )
    corpus: float = Field(0.01, gt=0, le=0.5, description="relative rise of each corpus's bits per byte")
    leak: float = Field(0.02, gt=0, le=0.5, description="rise of the format leak")

    @field_validator("tasks")
    @classmethod
    def _within(cls, tasks: dict[str, float]) -> dict[str, float]:
        wrong = [name for name, margin in tasks.items() if not 0 < margin <= 0.5]
        if wrong:
            raise ValueError(f"a margin lies above 0 and at most at 0.5; see {', '.join(wrong)}")
        return tasks


class Prove(Stage):
    """A proof between stages: the scores of two `evaluate` stages, compared. The last proof is the recipe's `proof`."""

    before: str = Field("base", description="label under which the first scores stand in the run")
    after: str = Field("adapted", description="label of the second scores")
    margins: Margins = Field(Margins(), description="fixed before training")

    def run(self, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
        """Writes `certificate.json` into the stage's folder and passes the checkpoint on."""
        sides = []
        for label in (self.before, self.after):
            scores = work.run.read_items(label)
            if not scores:
                raise RecipeError(
                    f"there are no scores under the label '{label}'.",
                    code="E-PROVE-SCORES",
                    fix=f"Put a stage {{name: evaluate, store_as: {label}}} before this one.",
                )
            sides.append(scores)
        certificate = certify(*sides, margins=self.margins, seeds=[work.seed], deployment=checkpoint.deployment)
        relative = work.folder.relative_to(work.run.folder) / "certificate.json"
        work.run.write_json(str(relative), certificate)
        return checkpoint


def certify(
    base: Sequence[Score],
    adapted: Sequence[Score],
    *,
    margins: Margins | None = None,
    seeds: Sequence[int] = (0,),
    deployment: str = "always_on",
    same_model: bool | None = None,
    rescored: Mapping[str, Sequence[Score]] | None = None,
    cost: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    level: float = LEVEL,
    whole: Sequence[Score] = (),
) -> dict[str, Any]:
    """The certificate of one adapted model: `certificate.json` as plain data.

    Args:
        base: scores of the base model.
        adapted: the same scores of the adapted model; `drift` stands only here.
        margins: fixed before training; the defaults of `Margins` when absent.
        seeds: of the run.
        deployment: `always_on` or `routed`: what was measured.
        same_model: base and adapted are known to be one model, or known not to be; None looks whether every item is
            bitwise the same.
        rescored: what `rescore` gave: the base under other scorings, by what was changed, for the noise floor.
        cost: seconds, peak bytes and whatever else a run knows.
        provenance: what another person needs to repeat it.
        level: two-sided, of the intervals; above 0.90 at the looks of sequential sampling.
        whole: scores of the base on more items than `base` has, by which tasks are admitted.

    Raises:
        RecipeError: the two sides were measured on different items (E-PROVE-ITEMS).
    """
    from keeptune.stages._certificate import build

    limits = (margins or Margins()).to_dict()
    return build(
        base,
        adapted,
        limits,
        seeds=list(seeds),
        deployment=deployment,
        same_model=same_model,
        rescored=rescored or {},
        cost=cost or {},
        provenance=provenance or {},
        level=level,
        whole=whole,
    )


def certify_seeds(certificates: Sequence[Mapping[str, Any]], measured: Sequence[Measured] = ()) -> dict[str, Any]:
    """One certificate for several seeds of a recipe.

    From three seeds on, with the scores of each: the mean over seeds with the interval of a hierarchical bootstrap over
    seeds and items, and the verdict that follows (`statistics.seeds`). With two seeds, or without their scores, that of
    the worst seed, which every seed must be as good as. The worst is the one with the worst verdict; among equals, the
    one with the largest loss of pooled accuracy. It is named, and its drift, power and cost are shown, in any case.

    Args:
        certificates: one per seed.
        measured: (scores of the base, scores of the adapted model) of each seed, in the same order.
    """
    from keeptune.stages._certificate import scope
    from keeptune.stages._seeds import over_seeds
    from keeptune.statistics.seeds import FEWEST_SEEDS

    assert certificates, "at least one certificate"
    worst = min(certificates, key=lambda one: (ORDER.index(one["verdict"]), _pooled_delta(one)))
    values = [value for one in certificates for value in one["seeds"]["values"]]
    together: dict[str, Any] = {}
    if len(measured) == len(certificates) >= FEWEST_SEEDS:
        together = over_seeds(certificates, measured)
    return {
        **worst,
        **together,
        "unchanged": all(one["unchanged"] for one in certificates),
        "scope": scope(len(values)),
        "seeds": {
            "count": len(values),
            "values": values,
            "speaks": "all seeds" if together else "the worst seed",
            "worst": worst["seeds"]["values"][0],
            "worst_verdict": worst["verdict"],
            "verdicts": [one["verdict"] for one in certificates],
            "target_deltas": [(one["target"] or {}).get("delta") for one in certificates],
            "pooled_deltas": [(one["retention"]["pooled"] or {}).get("delta") for one in certificates],
        },
    }


def _pooled_delta(certificate: Mapping[str, Any]) -> float:
    delta = (certificate["retention"]["pooled"] or {}).get("delta")
    return 0.0 if delta is None else float(delta)
