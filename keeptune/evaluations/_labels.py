"""Labels as a head scores them: one forward pass per request, whatever the number of labels."""

from __future__ import annotations

from collections.abc import Sequence

from keeptune.core.example import Message
from keeptune.data.encode import Encoded, encoder_of
from keeptune.data.starts import UNSAID, Starts
from keeptune.evaluations import Context, Subject
from keeptune.evaluations._likelihood import ROWS_AT_ONCE


def label_logprobs(
    subject: Subject, conversations: Sequence[Sequence[Message]], context: Context, what: str
) -> list[dict[str, float]]:
    """For each request, label to log softmax of its score; what is active on the model stays active."""
    import torch

    from keeptune.engine.batch import pack
    from keeptune.engine.generation import evaluating
    from keeptune.engine.readout import answers

    encoder = encoder_of(subject.tokenizer, None, subject.kind)
    requests = [encoder.request(turns) for turns in conversations]
    rows = [unlearned(request.tokens, request.starts) for request in requests]
    found: list[dict[str, float]] = [{} for _ in rows]
    with torch.inference_mode(), evaluating(subject.model):
        for number, batch in enumerate(batches_by_length(rows, context.batch_tokens)):
            for index, (scores, labels) in zip(
                batch, answers(subject.model, pack([rows[index] for index in batch])), strict=True
            ):
                found[index] = dict(zip(labels, scores.log_softmax(0).tolist(), strict=True))
            if number % 16 == 0:
                context.tell(what, sum(map(bool, found)), len(rows))
    return found


def unlearned(tokens: Sequence[int], starts: Starts = UNSAID) -> Encoded:
    """A row that is only read."""
    return Encoded("", "", tuple(tokens), (False,) * len(tokens), starts=starts)


def batches_by_length(rows: Sequence[Encoded], limit: int) -> list[list[int]]:
    """Indices of rows of similar length, the longest first, whose tokens together stay within the limit."""
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index].tokens), index))
    batches: list[list[int]] = []
    size = limit + 1
    for index in order:
        size += len(rows[index].tokens)
        if size > limit or len(batches[-1]) >= ROWS_AT_ONCE:
            batches.append([])
            size = len(rows[index].tokens)
        batches[-1].append(index)
    return batches
