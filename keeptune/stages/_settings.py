"""Groups of settings of the train stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from keeptune.core.spec import Spec


class Mixture(Spec):
    """Sources whose shares follow from their sizes; see `keeptune.data.mixing.proportional`."""

    of: list[str] = Field(min_length=1, description="names of sources")
    cap: int | None = Field(None, ge=1, description="rows of a source beyond this many do not count (FLAN: 3000)")
    temperature: float = Field(1.0, gt=0, le=1000, description="1: by rows; large: every source the same")


class Memory(Spec):
    """What fits into memory. None of it changes what is learned, beyond rounding."""

    micro_batch_tokens: int | None = Field(
        None, ge=1, le=10_000_000, description="tokens computed at a time; unset: the whole batch"
    )
    gradient_checkpointing: bool | Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = Field(
        "auto",
        description="compute activations twice instead of keeping them: in every layer, in so many of the lowest, or "
        "(auto) in the fewest with which the forecast fits into memory",
    )

    def layers_twice(self, layers: int, needed: int = 0) -> int:
        """How many of the lowest layers are computed twice.

        Args:
            layers: of the model.
            needed: what `auto` comes to.
        """
        chosen = needed if self.gradient_checkpointing == "auto" else self.gradient_checkpointing
        return layers if chosen is True else min(int(chosen), layers)


class Saving(Spec):
    """What is written along the way, and looks at the dev data."""

    every: int | None = Field(None, ge=1, description="steps between commits; unset: about ten in a stage")
    keep: int = Field(2, ge=1, le=1000, description="commits to keep, the best one apart")
    snapshots: int = Field(0, ge=0, le=1000, description="checkpoints evenly along training, for later evaluation")
    dev_every: int | None = Field(None, ge=1, description="steps between looks at dev; unset: as `every`")
    best: bool = Field(False, description="give the checkpoint that was best on dev instead of the last one")
    patience: int | None = Field(None, ge=1, description="stop after this many looks at dev without a new best")

    @property
    def watches_dev(self) -> bool:
        """Whether dev data decides anything."""
        return self.best or self.patience is not None

    def commit_every(self, total: int) -> int:
        """Steps between commits."""
        return self.every or max(1, round(total / 10))

    def snapshot_steps(self, total: int) -> set[int]:
        """The last one is the end of training."""
        return {max(1, round(total * (i + 1) / self.snapshots)) for i in range(self.snapshots)}
