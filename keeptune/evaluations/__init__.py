"""Evaluations: what is measured of a checkpoint. One file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.checkpoint import AdapterRef, Checkpoint, serving
from keeptune.core.digest import digest_of, file_digest, folder_digest
from keeptune.core.errors import RecipeError, did_you_mean
from keeptune.core.example import Example, Message
from keeptune.core.score import Score
from keeptune.core.spec import Spec
from keeptune.data.suite import Suite

if TYPE_CHECKING:
    from keeptune.models.load import Loaded

MODEL_FILES = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt"})

Progress = Callable[[str, int, int], None]
"""Called with what is measured, how many of its items are done, and how many there are."""


@dataclass(frozen=True)
class Subject:
    """A loaded checkpoint under measurement.

    Attributes:
        model: with the checkpoint's adapters attached.
        tokenizer: the model's.
        adapters: the checkpoint's stack.
        files: digest of the base's files (weights, tokenizer, template) and dtype; empty for a model in training.
    """

    model: Any
    tokenizer: Any
    adapters: tuple[AdapterRef, ...] = ()
    files: str = ""

    @classmethod
    def of(cls, loaded: Loaded, checkpoint: Checkpoint) -> Subject:
        """The subject for a checkpoint that `loaded` holds, adapters attached."""
        names = sorted(path for path in loaded.path.iterdir() if path.suffix in MODEL_FILES)
        digests = {path.name: file_digest(path) for path in names}
        files = digest_of([digests, str(loaded.dtype), *([loaded.quantize] if loaded.quantize else [])])
        return cls(loaded.model, loaded.tokenizer, checkpoint.adapters, files)

    @property
    def kind(self) -> str:
        """`decoder`, `encoder`, `encoder_decoder` or `image`."""
        from keeptune.models.families import FAMILIES

        family = FAMILIES.get(self.model.config.model_type)
        return "decoder" if family is None else family.kind

    @property
    def speaks(self) -> bool:
        """Whether it writes text."""
        return self.kind in ("decoder", "encoder_decoder")

    @property
    def fills_masks(self) -> bool:
        """Whether it has a masked-language-model head."""
        from keeptune.engine.cloze import known_cloze_paths

        return bool(known_cloze_paths(self.model))

    @property
    def reads_labels(self) -> bool:
        """Whether a head among its adapters gives labels scores."""
        from keeptune.engine.readout import reads

        return reads(self.model, [adapter.name for adapter in self.adapters])

    def on_task(self, source: str = "task") -> AbstractContextManager[None]:
        """Inside, the model answers its own task: every adapter is active, in order, but those of another source."""
        return self._active(list(serving([(one.name, one.scope) for one in self.adapters], source, task=True)))

    def off_task(self) -> AbstractContextManager[None]:
        """Inside, the model answers anybody else, as deployed: only adapters of scope `always` are on."""
        return self._active([adapter.name for adapter in self.adapters if adapter.scope == "always"])

    def _active(self, names: list[str]) -> AbstractContextManager[None]:
        from keeptune.engine.rows import active

        return active(self.model, names)

    def identity(self) -> dict[str, Any]:
        """What decides its answers: the base's files, each adapter's content and scope."""
        parts = [[adapter.scope, folder_digest(adapter.path)] for adapter in self.adapters]
        return {"files": self.files, "adapters": parts}


@dataclass(frozen=True)
class Reach:
    """What all the models that are compared can read whole.

    Attributes:
        longest: tokens of the smallest context among them.
        fits: whether a conversation fits, with each of some answers, or with the first token of one.
    """

    longest: int
    fits: Callable[[Sequence[Message], Sequence[str]], bool]


@dataclass
class Context:
    """What evaluations work with.

    Attributes:
        subject: opens a checkpoint; the run keeps the last ones loaded.
        base: the checkpoint that everything is compared with; `drift` needs it.
        data: examples by name: the recipe's sources and their splits, such as `task/test`.
        suite: the retention suite.
        seed: of whatever is drawn.
        batch_tokens: tokens of one forward pass; fixed for a run, because it moves the last bits of a score.
        progress: told about the items done.
        cache: folder of measured scores, shared by runs; None measures anew.
        left_out: parts of `data` and `suite` that lost items longer than the context; None where nobody looked.
        reach: by which whoever writes longer prompts than those leaves out more; None where nobody looked.
    """

    subject: Callable[[Checkpoint], Subject]
    base: Checkpoint | None = None
    data: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    suite: Suite | None = None
    seed: int = 0
    batch_tokens: int = 8192
    progress: Progress | None = None
    cache: Path | None = None
    left_out: list[dict[str, Any]] | None = None
    reach: Reach | None = None

    def rows(self, source: str, split: str = "test") -> list[Example]:
        """The rows `source/split` of the data; the whole of `source` when it was not split.

        Raises:
            RecipeError: there is no such source (E-RECIPE-DATA).
        """
        for name in (f"{source}/{split}", source):
            if name in self.data:
                return list(self.data[name])
        fix = did_you_mean(source, {name.split("/")[0] for name in self.data})
        raise RecipeError(f"no data source is called '{source}'.", code="E-RECIPE-DATA", fix=fix)

    def answers(self, source: str) -> list[str]:
        """The different answers that the conversations of a source give, over all its splits, in alphabetical order."""
        own = [rows for name, rows in self.data.items() if name.split("/")[0] == source]
        return sorted({row.target for rows in own for row in rows if row.text is None})

    def fits(self, turns: Sequence[Message], answers: Sequence[str] = ()) -> bool:
        """Whether every model that is compared can read a conversation whole."""
        return self.reach is None or self.reach.fits(turns, answers)

    def tell(self, what: str, done: int, total: int) -> None:
        """Reports progress, if anybody listens."""
        if self.progress is not None:
            self.progress(what, done, total)


class Evaluation(Spec, shelf="keeptune.evaluations"):
    """Measures a checkpoint; its fields are the settings that decide the numbers."""

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """The scores with their per-item records, the same on every call."""
        raise NotImplementedError

    def reads(self, context: Context) -> Any:
        """Plain data that stands for everything it reads from the context, for the cache's key."""
        raise NotImplementedError

    def beyond(self, context: Context) -> list[tuple[str, int, int]]:
        """(name, how many, of how many) of the items that it leaves out because what it adds makes them too long."""
        return []
