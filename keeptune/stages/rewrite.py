"""Self-distilled targets: the model says each answer in its own words, and learns from that (arXiv:2402.13669)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Example, Message
from keeptune.data.encoder import Request
from keeptune.data.verifiers import Verifier
from keeptune.stages import Stage, StageWork
from keeptune.stages._made import write_made

if TYPE_CHECKING:
    from keeptune.models.load import Loaded

ASK = (
    "{instruction}\n\nA correct answer is given here. Answer the request yourself, in your own words, and agree with "
    "it.\n\nGiven answer: {reference}"
)


class Rewrite(Stage):
    """y' = f(c, x, y), if it passes the checks, else y: the source `makes` for the stages after this one.

    A model that is trained on its own wording moves less than on another's, since it found those words likely before.
    A rewriting is kept when it ended, is not empty, says nothing of the request to rewrite (`phrases`), and the
    verifier, where there is one, accepts it. The checkpoint passes unchanged.
    """

    on: str = Field("task", description="source whose answers are rewritten")
    makes: str = Field("rewritten", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="name of the source it makes")
    ask: str = Field(ASK, description="the request; {instruction} is the last user's turn, {reference} the answer")
    verifier: Verifier | None = Field(None, description="number, exact_match, json_schema, ...; unset: none")
    phrases: list[str] = Field(
        default=["given answer", "correct answer", "own words"], description="an answer with one of them is not kept"
    )
    max_new_tokens: int = Field(256, ge=1, le=8192, description="an answer longer than that is not kept")
    rows: int | None = Field(None, ge=1, description="rewrite only so many, the first ones; unset: all")

    @field_validator("ask")
    @classmethod
    def _has_places(cls, ask: str) -> str:
        if ask.count("{instruction}") != 1 or ask.count("{reference}") != 1:
            raise ValueError("'ask' holds {instruction} once and {reference} once")
        return ask

    def sources(self) -> list[str]:
        """The source that is rewritten."""
        return [self.on]

    def made_from(self) -> dict[str, str]:
        """The made source, and where its questions come from."""
        return {self.makes: self.on}

    def run(self, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
        """Writes the made source, with every row of `on`; a killed stage goes on from the last chunk.

        Raises:
            Interrupted: a signal; finished chunks are kept (E-RUN-INTERRUPTED).
        """
        from keeptune.stages._answering import answered

        rows = list(work.examples.get(self.on, ()))
        asked = [row for row in rows if row.text is None and row.prompt][: self.rows]
        loaded = work.open(checkpoint)
        prompts = self._prompts(loaded, work, asked)
        (written,) = answered(loaded, checkpoint, work, self.label, prompts, max_new_tokens=self.max_new_tokens)
        counts: Counter[str] = Counter()
        made = []
        for row in rows:
            text = written.get(row.id)
            reason = "not asked" if row.id not in written else self.fault(row, text)
            counts[reason or "rewritten"] += 1
            answer = row.target if reason or text is None else text
            messages = row.messages if row.text is not None else (*row.prompt, Message("assistant", answer))
            made.append(replace(row, messages=messages, source=self.makes))
        work.run.event("rewritten", stage=self.label, **{key.replace(" ", "_"): n for key, n in counts.items()})
        work.progress.say(f"{self.label}: " + ", ".join(f"{n} {key}" for key, n in counts.most_common()))
        write_made(work.folder, self.makes, made)
        return checkpoint

    def fault(self, row: Example, text: str | None) -> str | None:
        """Why a rewriting is not kept; None where it is."""
        if text is None:
            return "empty or unended"
        if any(phrase.lower() in text.lower() for phrase in self.phrases):
            return "speaks of the request"
        return None if self.verifier is None else self.verifier.fault(row, text)

    def asking(self, row: Example) -> list[Message]:
        """The conversation up to the answer, with the request in the place of the last user's turn."""
        *before, last = row.prompt
        request = self.ask.replace("{reference}", row.target).replace("{instruction}", last.content)
        return [*before, Message(last.role, request)]

    def _prompts(self, loaded: Loaded, work: StageWork, rows: Sequence[Example]) -> dict[str, Request]:
        """By row; a request that leaves no room for its answer in the model's context is not made."""
        from keeptune.data.encode import Encoder

        limit = int(getattr(loaded.model.config, "max_position_embeddings", 0) or 2048)
        encoder = Encoder(loaded.tokenizer, work.template)
        prompts = {row.id: encoder.request(self.asking(row)) for row in rows}
        return {name: one for name, one in prompts.items() if len(one.tokens) + self.max_new_tokens <= limit}
