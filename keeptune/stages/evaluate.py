"""Measures the checkpoint and stores the scores in the run; the checkpoint passes unchanged."""

from __future__ import annotations

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import RecipeError
from keeptune.evaluations import Evaluation
from keeptune.evaluations._stored import measure_once
from keeptune.stages import Stage, StageWork


class Evaluate(Stage):
    """A measurement between stages. The first and the last measurement are the recipe's `proof`."""

    store_as: str = Field("between", pattern=r"^[a-z0-9][a-z0-9_-]*$", description="what the scores are stored under")
    evaluations: list[Evaluation] = Field(min_length=1, max_length=12, description="what to measure, in order")

    def sources(self) -> list[str]:
        """The data sources of its evaluations."""
        named = [getattr(evaluation, "data", None) for evaluation in self.evaluations]
        return [name for name in named if isinstance(name, str)]

    def run(self, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
        """Stores the scores in the run's items and passes the checkpoint on.

        Raises:
            RecipeError: the run has nothing to measure with (E-RECIPE-PROOF).
        """
        if work.context is None:
            raise RecipeError(
                "an `evaluate` stage needs the suite and the held-out rows of the recipe's proof.",
                code="E-RECIPE-PROOF",
                fix="Add `proof:` to the recipe, and run it without --skip-base.",
            )
        scores = [score for chosen in self.evaluations for score in measure_once(chosen, checkpoint, work.context)]
        work.run.write_items(self.store_as, scores)
        return checkpoint
