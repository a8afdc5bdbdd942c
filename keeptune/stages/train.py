"""Train: adapts a checkpoint to data with a method, losses and an optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, field_validator, model_validator
from typing_extensions import Self

from keeptune.core.checkpoint import Checkpoint, Scope
from keeptune.data.mixing import proportional, sample_size
from keeptune.data.packing import Packing
from keeptune.losses import Loss
from keeptune.methods import Method
from keeptune.stages import Stage, StageWork
from keeptune.stages._settings import Memory, Mixture, Saving
from keeptune.stages.optimizers import Optimizer

METHODS: TypeAdapter[list[Method]] = TypeAdapter(Annotated[list[Method], Field(min_length=1)])
if TYPE_CHECKING:
    from keeptune.core.shape import ModelShape
    from keeptune.data.encode import EncodedSet

# What may be changed between a kill and a resume: it does not reach the weights.
NEUTRAL = {
    "report_to": None,
    "saving": ("every", "keep", "snapshots"),
    "memory": ("gradient_checkpointing",),
    "id": None,
}


class Train(Stage):
    """Minimises `sum_i weight_i * mean of loss i` over packed rows; the new weights become an adapter or a model."""

    revision: ClassVar[int] = 1

    method: Method | list[Method] = Field(description="what is trained; a list is one adapter of several methods")
    data: str | dict[str, float] | Mixture = Field(
        "task", description="a source, sources with their share of the tokens, or {of: [...], cap: 3000}"
    )
    sample: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict, description="share of a source's rows that this stage draws from; the others stay out"
    )
    losses: list[Loss] = Field(default_factory=lambda: [_default(Loss, "next_token")], min_length=1)
    optimizer: Optimizer = Field(default_factory=lambda: _default(Optimizer, "adamw"), description="how weights move")
    epochs: float | None = Field(None, gt=0, le=1e5, description="passes over the task; unset: 1, or `steps`")
    steps: int | None = Field(None, ge=1, le=100_000_000, description="optimiser steps, instead of `epochs`")
    batch_tokens: int = Field(4096, ge=1, le=100_000_000, description="tokens of one optimiser step")
    packing: Packing = Field("drawn", description="rows of a step: as drawn, best_fit (fuller), or by_length (alike)")
    memory: Memory = Field(default_factory=Memory, description="what is computed at a time")
    saving: Saving = Field(default_factory=Saving, description="commits, snapshots, looks at dev")
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default=[], description="trackers")
    thaw: list[str] = Field(default=[], description="adapters of earlier stages, by id, that go on learning")
    scope: Scope = Field("always", description="who gets the new adapter: always, task, or the name of a source")

    @field_validator("method", mode="plain")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return METHODS.validate_python(value) if isinstance(value, list) else Method.model_validate(value)

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_tracker(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give 'epochs' or 'steps', not both")
        if isinstance(self.data, dict) and not (self.data and all(share > 0 for share in self.data.values())):
            raise ValueError("the shares of 'data' are positive numbers, at least one")
        stray = next((source for source in self.sample if source not in self.shares), None)
        if stray is not None:
            raise ValueError(f"'sample' names '{stray}', which 'data' does not train on")
        if self.scope not in ("always", "task", *self.shares):
            raise ValueError(f"'scope' is always, task, or a source that the stage trains on, not '{self.scope}'")
        base = next((method.name for method in self.methods if method.trains_base), None)
        if self.scope != "always" and base:
            raise ValueError(f"'{base}' trains the base itself, which answers everybody: scope is 'always'")
        if base and any(not method.reads_only for method in self.methods if method.name != base):
            raise ValueError(
                f"'{base}' trains the base itself: beside it there may be a head and nothing else; give it a stage of "
                "its own; earlier adapters stay on"
            )
        pulling = next((loss.name for loss in self.losses if loss.pulls), None)
        if pulling and not self.trains_base:
            raise ValueError(
                f"'{pulling}' pulls the base's own weights back, and '{self.methods[0].name}' leaves them as they are: "
                "take the method full or freeze, or weight decay, which pulls an added part to nothing"
            )
        return self

    @property
    def methods(self) -> list[Method]:
        """The methods of the new adapter."""
        return self.method if isinstance(self.method, list) else [self.method]

    @property
    def trains_base(self) -> bool:
        """Whether the base's own weights change."""
        return any(method.trains_base for method in self.methods)

    @property
    def adds(self) -> bool:
        """Whether there is a new adapter, be it beside a base that changes."""
        return any(not method.trains_base for method in self.methods)

    @property
    def detachable(self) -> bool:
        """Whether the new adapter can be taken off again."""
        return all(method.detachable for method in self.methods)

    @property
    def shares(self) -> dict[str, float]:
        """Each source's share of the tokens; they sum to 1."""
        if isinstance(self.data, Mixture):
            shares = dict.fromkeys(self.data.of, 1.0)  # until `fitted` knows the rows
        else:
            shares = {self.data: 1.0} if isinstance(self.data, str) else self.data
        return {source: share / sum(shares.values()) for source, share in shares.items()}

    def takes(self, shape: ModelShape, tokenizer: Any) -> int:
        """Those of its methods together."""
        return sum(method.takes(shape, tokenizer) for method in self.methods)

    def sources(self) -> list[str]:
        """The sources that it trains on, and those that its losses look at."""
        return list(dict.fromkeys([*self.shares, *(source for loss in self.losses for source in loss.sources())]))

    @property
    def paired(self) -> set[str]:
        """The sources of which a loss reads the better and the worse answer of each row."""
        return {name for loss in self.losses if loss.reads_pairs for name in self.shares if loss.on in (None, name)}

    def fitted(self, data: Mapping[str, EncodedSet]) -> Self:
        """With the settings that only the data can decide: of its methods, and the shares of a mixture."""
        rows = (row for source in self.shares if source in data for row in data[source].rows)
        answers = sorted({row.answer for row in rows if row.answer is not None})
        methods = [method.fitted(answers) for method in self.methods]
        mixed: Any = self.data
        if isinstance(self.data, Mixture) and all(name in data and data[name].rows for name in self.data.of):
            lengths = {name: self._lengths(name, data[name]) for name in self.data.of}
            mixed = proportional(lengths, self.data.cap, self.data.temperature)
        found = methods if isinstance(self.method, list) else methods[0]
        return self.model_copy(update={"method": found, "data": mixed})

    def _lengths(self, source: str, encoded: EncodedSet) -> list[float]:
        """Tokens of the rows that the stage draws from, each of the mean length where they are not drawn yet."""
        lengths = [float(len(row.tokens)) for row in encoded.rows]
        if source not in self.sample:
            return lengths
        return [sum(lengths) / len(lengths)] * sample_size(len(lengths), self.sample[source])

    def exactness(self) -> dict[str, Any]:
        """The settings that reach the weights."""
        plain = self.to_dict()
        for key, inner in NEUTRAL.items():
            if inner is None:
                del plain[key]
            for name in inner or ():
                del plain[key][name]
        return plain

    def run(self, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
        """Trains, or goes on where a killed process stopped.

        Raises:
            DataError: nothing to learn from (E-TRAIN-NOTHING).
            PlanError: what was asked cannot work (E-TRAIN-*, E-MODEL-*, E-METHOD-*).
            RecipeError: begun with other settings (E-RESUME-DIFFERENT).
            DivergedError: loss or gradient is not finite, also after a roll-back (E-NONFINITE).
            Interrupted: a signal; everything is committed (E-RUN-INTERRUPTED).
        """
        from keeptune.stages._training import train

        return train(self.fitted(work.data), checkpoint, work)


def _default(shelf: Any, name: str) -> Any:
    return shelf.find(name)()
