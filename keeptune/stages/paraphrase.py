"""The best of several wordings as a prompt: the one under which the untrained model finds the answers likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from keeptune.core.checkpoint import AdapterRef, Checkpoint, Scope, serving
from keeptune.core.errors import DataError
from keeptune.stages import Stage, StageWork

if TYPE_CHECKING:
    from keeptune.core.shape import ModelShape
    from keeptune.data.encode import Encoded
    from keeptune.methods.prompt import Prompt
    from keeptune.models.load import Loaded


class Paraphrase(Stage):
    """ProMoT's first stage in natural words: of the wordings, the one with the lowest loss before any training.

    Each wording stands before the text of every row, as the embeddings of its tokens (`prompt` with `init: text`); the
    mean loss of the answers, in nats a token, is measured on some training rows, forward passes alone. What is asked
    as the model would ask it leaves the weights less to learn of the form (SAPO, arXiv:2606.01967, says that such a
    prompt forgets least). The best one becomes an adapter that never learns; a soft prompt may be trained on top.
    """

    texts: list[str] = Field(min_length=2, max_length=200, description="wordings; marks of the template may be in them")
    data: str = Field("task", description="source whose answers are looked at")
    rows: int = Field(200, ge=1, le=100_000, description="most training rows that are looked at")
    scope: Scope = Field("task", description="as of a train stage")

    @field_validator("texts")
    @classmethod
    def _different(cls, texts: list[str]) -> list[str]:
        if len(set(texts)) < len(texts) or not all(text.strip() for text in texts):
            raise ValueError("'texts' are different wordings, none of them empty")
        return texts

    def takes(self, shape: ModelShape, tokenizer: Any) -> int:
        """Those of the longest wording: which one is the best is not known before."""
        return max(_length(text, tokenizer) for text in self.texts)

    def sources(self) -> list[str]:
        """The source that is looked at."""
        return [self.data]

    def run(self, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
        """Adds the prompt; the loss of every wording, and without any, stands in the events under `paraphrase`.

        Raises:
            DataError: no row of the source has an answer to look at (E-PARAPHRASE-ROWS).
        """
        from keeptune.core.commit import write_commit
        from keeptune.engine.book import detach
        from keeptune.methods import attach, save_adapter

        rows = [row for row in work.data[self.data].rows if any(row.learned[1:])][: self.rows]
        if not rows:
            raise DataError(
                f"no row of '{self.data}' has an answer to look at.",
                code="E-PARAPHRASE-ROWS",
                where={"key": f"stages[{work.index}].data"},
                fix="Name a source with prompts and answers.",
            )
        loaded = work.open(checkpoint)
        before = serving([(ref.name, ref.scope) for ref in checkpoint.adapters], self.data, task=True)
        plain, losses = self._loss(loaded, rows, before), list[float]()
        for text in self.texts:
            attach(loaded.model, prompt_of(loaded, text), self.label, trainable=False, seed=work.seed)
            losses.append(self._loss(loaded, rows, (*before, self.label)))
            detach(loaded.model, self.label)
            work.progress.say(f"{self.label}: {losses[-1]:.4f} nats a token under {text!r}")
        best = min(range(len(losses)), key=losses.__getitem__)
        told = [{"text": text, "loss": loss} for text, loss in zip(self.texts, losses, strict=True)]
        work.run.event("paraphrase", stage=self.label, rows=len(rows), without=plain, losses=told, best=best)
        attach(loaded.model, prompt_of(loaded, self.texts[best]), self.label, trainable=False, seed=work.seed)
        fill = partial(save_adapter, loaded.model, self.label)
        path: Path = write_commit(work.folder, "adapter", fill, info={"text": self.texts[best]})
        ref = AdapterRef(self.label, path, self.scope)
        return replace(checkpoint, adapters=(*checkpoint.adapters, ref))

    def _loss(self, loaded: Loaded, rows: Sequence[Encoded], adapters: tuple[str, ...]) -> float:
        """Mean loss of the answers, in nats a token; every token weighs the same."""
        from keeptune.stages._prepared import mean_losses
        from keeptune.stages._reference import Reference

        found = mean_losses(Reference(loaded.model, {self.data: adapters}, copied=False), rows)
        sizes = [sum(row.learned[1:]) for row in rows]
        return sum(loss * size for loss, size in zip(found, sizes, strict=True)) / sum(sizes)


def prompt_of(loaded: Loaded, text: str) -> Prompt:
    """The prompt that is a text, one virtual token for each of its tokens."""
    from keeptune.methods.prompt import Prompt

    return Prompt(length=_length(text, loaded.tokenizer), init="text", text=text)


def _length(text: str, tokenizer: Any) -> int:
    return max(1, len(tokenizer(text, add_special_tokens=False)["input_ids"]))
