"""On-policy distillation: the model answers, and a teacher judges each token of what it said."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from keeptune.losses import Loss
from keeptune.stages.train import Train

SHOW = "{instruction}\n\nThis is an example of a good answer:\n{reference}\n\nNow answer in your own words."


class Distill(Train):
    """Minimises KL(model || teacher) on the model's own answers to the rows of `on`, sampled anew at every step.

    A model is judged where it really goes, so that it is moved no further than its own mistakes ask for. The teacher is

    - `start`: the checkpoint that the stage starts from. With `show` it reads the row's answer beside the question
      (on-policy self-distillation); without it there would be nothing to learn.
    - `base`: the run's base, the old self before the stages in between (on-policy distillation back to it).

    Everything else is that of a train stage; rows of other sources stay as they are, and so do documents.
    """

    revision: ClassVar[int] = 1

    on: str = Field("task", description="source whose questions the model answers")
    teacher: Literal["start", "base"] = Field("start", description="who judges: the stage's start, or the run's base")
    show: str | None = Field(
        None, description="what the teacher reads instead of the question, with {instruction} and {reference} in it"
    )
    temperature: float = Field(1.0, gt=0, le=5, description="of the answers")
    max_new_tokens: int = Field(64, ge=1, le=8192, description="longest answer; a longer one is cut")
    losses: list[Loss] = Field(
        default_factory=lambda: [Loss.find("kl_to_base")(direction="reverse")],  # type: ignore[call-arg]
        min_length=1,
    )

    @field_validator("show")
    @classmethod
    def _has_places(cls, show: str | None) -> str | None:
        if show is not None and (show.count("{instruction}") != 1 or show.count("{reference}") != 1):
            raise ValueError("'show' holds {instruction} once and {reference} once")
        return show

    @model_validator(mode="after")
    def _judged(self) -> Self:
        if self.on not in self.shares:
            raise ValueError(f"'on' names '{self.on}', which 'data' does not train on")
        if self.teacher == "start" and self.show is None:
            raise ValueError("the teacher is the model itself: give it something to read with 'show', or take 'base'")
        plain = next((one.name for one in self.losses if one.on in (None, self.on) and not one.needs_reference), None)
        if plain is not None:
            raise ValueError(
                f"'{plain}' would learn the model's own answers; on '{self.on}' take kl_to_base, or give it an 'on'"
            )
        if any(loss.pulls or loss.reads_labels or loss.reads_pairs or loss.weighs for loss in self.losses):
            raise ValueError("only losses over tokens can run beside the model's own answers: kl_to_base, next_token")
        return self
