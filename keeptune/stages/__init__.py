"""One file per step of a recipe: each takes a checkpoint and gives a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.spec import Spec
from keeptune.stages._progress import Progress

if TYPE_CHECKING:
    from keeptune.core.example import Example
    from keeptune.core.run import Run
    from keeptune.core.shape import ModelShape
    from keeptune.data.encode import EncodedSet
    from keeptune.evaluations import Context
    from keeptune.models.load import Loaded
    from keeptune.stages._guard import Guarding


@dataclass
class StageWork:
    """What a stage gets beside the checkpoint it starts from.

    Attributes:
        run: the run folder: events, metrics, and the flag that a signal sets.
        folder: the stage's own folder in it.
        index: its place in the recipe.
        seed: of the run; a stage derives its generators from it.
        data: the encoded training rows of each source.
        open: loads a checkpoint with its adapters attached and frozen. Each call gives a model of its own, which the
            stage may change.
        examples: the training rows of each source as they were read.
        template: the recipe's, where the tokenizer has no chat template.
        base: what the run started from.
        dev: measures the model on dev data while it trains; higher is better. It is called in evaluation mode, without
            gradients, with the adapters of the task active.
        dev_rows: dev rows; without `dev`, minus their mean loss is the score.
        task: sources that are the task, on whose rows the adapters of scope `task` are active; with one source, or
            when none of them is used, all of them.
        weights_only: go on from a commit whose optimiser state is lost (`--weights-only`).
        progress: where the user sees it move.
        context: what `evaluate` stages measure with; None in a run without a proof.
        layers_twice: the lowest layers whose activations are computed twice, where the stage leaves that to `auto`.
        cache: folder of what can be computed again, shared by runs; None keeps nothing.
        guard: looks at what is lost during training, and ends it when the budget is spent.
    """

    run: Run
    folder: Path
    index: int
    seed: int
    data: Mapping[str, EncodedSet]
    open: Callable[[Checkpoint], Loaded]
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    template: str | None = None
    base: Checkpoint | None = None
    dev: Callable[[Loaded], float] | None = None
    dev_rows: EncodedSet | None = None
    task: frozenset[str] = frozenset({"task"})
    weights_only: bool = False
    progress: Progress = field(default_factory=Progress)
    context: Context | None = None
    layers_twice: int = 0
    cache: Path | None = None
    guard: Guarding | None = None


class Stage(Spec, shelf="keeptune.stages"):
    """A step from one checkpoint to the next; `revision` is raised when its results change, so that it runs again."""

    revision: ClassVar[int] = 1

    id: str | None = Field(None, description="its name in the run folder; unset: the kind of stage")

    @property
    def label(self) -> str:
        """What the run folder calls it: its id, else the kind of stage."""
        return self.id or self.name

    def sources(self) -> list[str]:
        """The names of the data sources that it uses."""
        return []

    def takes(self, shape: ModelShape, tokenizer: Any) -> int:
        """Positions that its adapter takes beside each text, on a model whose positions are a table."""
        return 0

    def made_from(self) -> dict[str, str]:
        """The sources that it makes for the stages after it, and the source that each takes its questions from."""
        return {}

    def run(self, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
        """Does the work; what it writes stands in `work.folder`."""
        raise NotImplementedError
