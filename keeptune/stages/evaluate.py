"""Measures the checkpoint and stores the scores in the run; the checkpoint passes unchanged."""

from __future__ import annotations

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.evaluations import Context, Evaluation, Subject
from keeptune.evaluations._stored import measure_once
from keeptune.pocket.suite import build_suite
from keeptune.stages import Stage, StageWork


class Evaluate(Stage):
    """A measurement between stages. The first and the last measurement are the recipe's `proof`."""

    label: str = Field(description="name under which the scores stand in the run")
    evaluations: list[Evaluation] = Field(min_length=1, max_length=12, description="what to measure, in order")
