"""What an encoder is for, measured: which second half belongs to a text's first half."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.score import Item, Score
from keeptune.data.suite import Corpus
from keeptune.evaluations import Context, Evaluation, Subject
from keeptune.evaluations._summary import summarise


class Halves(Evaluation):
    """The general ability of an encoder: its mean states of the two halves of a text lie closer than of two texts.

    Every document of the suite's corpora is cut in the middle. For each first half, the second halves of `candidates`
    documents of the corpus are ranked by the cosine of the mean states behind the last block; the right one must come
    first. It needs no head, so base and adapted model are measured alike, as deployed off the task.
    """

    documents: int = Field(600, ge=10, le=100_000, description="most documents of a corpus")
    candidates: int = Field(8, ge=2, le=1000, description="second halves to choose from")

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One score per corpus."""
        assert context.suite is not None, "an encoder's ability is measured on a suite"
        subject = context.subject(checkpoint)
        with subject.off_task():
            return [self._of(subject, corpus, context) for corpus in context.suite.corpora]

    def reads(self, context: Context) -> Any:
        """The suite."""
        assert context.suite is not None, "an encoder's ability is measured on a suite"
        return context.suite.digest()

    def _of(self, subject: Subject, corpus: Corpus, context: Context) -> Score:
        documents = [one for one in corpus.documents if len(one.text.split()) >= 8][: self.documents]
        words = [one.text.split() for one in documents]
        halves = [" ".join(text[: len(text) // 2]) for text in words] + [
            " ".join(text[len(text) // 2 :]) for text in words
        ]
        states = mean_states(subject, halves, context)
        count = len(documents)
        similar = (states[:count] @ states[count:].T).tolist()
        items = []
        for row, document in enumerate(documents):
            others = [(row + step) % count for step in range(min(self.candidates, count))]
            best = max(others, key=similar[row].__getitem__)
            items.append(
                Item(
                    id=document.id, task=halves_of(corpus), score=float(best == row), cluster=document.cluster,
                    prompt=halves[row], gold=halves[count + row], prediction=halves[count + best], seed=context.seed,
                )
            )  # fmt: skip
        return summarise(halves_of(corpus), "accuracy", "accuracy", items, chance=1 / self.candidates)


def halves_of(corpus: Corpus) -> str:
    """What the score of a corpus is called."""
    return f"halves of {corpus.name}"


def mean_states(subject: Subject, texts: list[str], context: Context) -> Any:
    """`[n, D]` in float32: the mean state of each text behind the last block, of length 1."""
    import torch

    from keeptune.core.example import Message
    from keeptune.data.encode import encoder_of
    from keeptune.engine.batch import pack
    from keeptune.engine.generation import evaluating
    from keeptune.engine.packed import packed_hidden
    from keeptune.engine.positions import positions_before
    from keeptune.evaluations._labels import batches_by_length, unlearned

    encoder = encoder_of(subject.tokenizer, None, subject.kind)
    longest = int(getattr(subject.model.config, "max_position_embeddings", 512)) - 2 - positions_before(subject.model)
    rows = [unlearned(encoder.prompt([Message("user", text)])[:longest]) for text in texts]
    found: list[Any] = [None] * len(rows)
    with torch.inference_mode(), evaluating(subject.model):
        for batch in batches_by_length(rows, context.batch_tokens):
            hidden = packed_hidden(subject.model, pack([rows[index] for index in batch])).float()
            parts = torch.split(hidden, [len(rows[index].tokens) for index in batch])
            for index, part in zip(batch, parts, strict=True):
                found[index] = torch.nn.functional.normalize(part.mean(dim=0), dim=0)
            context.tell("halves", sum(one is not None for one in found), len(rows))
    return torch.stack(found)
