"""Samples answers to the training questions, keeps the right ones, and gives them to the next stage as a source."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.counting import counted
from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.verifiers import Verifier
from keeptune.stages import Stage, StageWork
from keeptune.stages._made import write_made

if TYPE_CHECKING:
    from keeptune.data.encode import Encoded


class RejectionSampling(Stage):
    """Rejection-sampling fine-tuning (arXiv:2308.01825): sample, verify, one answer for each way, cap per question.

    The checkpoint that comes in answers every question of `on` `samples` times. What the verifier accepts becomes the
    source `makes`, for the stages after this one: the paper trains the base anew on the gold answers and these. A model
    learns from answers that it can give, so their loss under the base is low.
    """

    on: str = Field("task", description="source whose training questions are asked")
    makes: str = Field(
        "sampled", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="name of the source of right answers"
    )
    verifier: Verifier = Field(description="exact_match, number, json_schema, unit_tests, or your own")
    samples: int = Field(8, ge=1, le=1000, description="answers to each question; the paper: 100")
    temperature: float = Field(0.7, gt=0, le=5, description="of the samples")
    max_new_tokens: int = Field(256, ge=1, le=8192, description="an answer longer than that is not looked at")
    most: int | None = Field(4, ge=1, description="answers to keep of a question, so that easy ones do not dominate")
    questions: int | None = Field(None, ge=1, description="ask only so many, the first ones; unset: all")
    from_base: bool = Field(True, description="the next stage starts from the base, as in the paper")

    def sources(self) -> list[str]:
        """The source of the questions."""
        return [self.on]

    def made_from(self) -> dict[str, str]:
        """The made source, and where its questions come from."""
        return {self.makes: self.on}

    def run(self, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
        """Writes the made source; a killed stage goes on from the last chunk of questions.

        Raises:
            DataError: no answer was right (E-SAMPLE-NOTHING), or a row cannot be verified (E-VERIFY-ROW).
            Interrupted: a signal; finished chunks are kept (E-RUN-INTERRUPTED).
        """
        from keeptune.stages._answering import answered, request_of
        from keeptune.stages._sifting import sift, told

        asked = self._asked(work)
        answers = answered(
            work.open(checkpoint),
            checkpoint,
            work,
            self.label,
            {row.id: request_of(row) for row, _ in asked},
            max_new_tokens=self.max_new_tokens,
            rounds=self.samples,
            temperature=self.temperature,
        )
        sifted = [
            sift(example, [text for texts in answers if (text := texts[row.id]) is not None], self.verifier)
            for row, example in asked
        ]
        counts = told(sifted, self.most)
        work.run.event("sampled", stage=self.label, **{key.replace(" ", "_"): count for key, count in counts.items()})
        work.progress.say(f"{self.label}: " + ", ".join(f"{count} {key}" for key, count in counts.items()))
        kept = [
            replace(
                one.example,
                id=f"{one.example.id}~{number}",
                messages=(*one.example.prompt, Message("assistant", text)),
                source=self.makes,
            )
            for one in sifted
            for number, text in enumerate(one.kept(self.most), start=1)
        ]
        if not kept:
            raise DataError(
                f"none of {counted(counts['answers'], 'sampled answer')} was right.",
                code="E-SAMPLE-NOTHING",
                where={"key": f"stages[{work.index}]"},
                why=", ".join(f"{count} {key}" for key, count in counts.items() if count),
                fix="Train longer before sampling, sample more, or look at what the verifier asks for.",
            )
        write_made(work.folder, self.makes, kept)
        return work.base if self.from_base and work.base is not None else checkpoint

    def _asked(self, work: StageWork) -> list[tuple[Encoded, Example]]:
        """The encoded questions beside what they were encoded from; a row that was cut is not asked."""
        by_id = {example.id: example for example in work.examples.get(self.on, ()) if example.text is None}
        rows = [row for row in work.data[self.on].rows if row.id in by_id]
        return [(row, by_id[row.id]) for row in rows[: self.questions]]
