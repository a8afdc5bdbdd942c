"""Free answers: what a model says by greedy generation, as text."""

from __future__ import annotations

from collections.abc import Sequence

from keeptune.core.errors import DataError
from keeptune.core.example import Message
from keeptune.data.encode import encoder_of
from keeptune.evaluations import Context, Subject
from keeptune.evaluations._endpoint import Endpoint
from keeptune.evaluations._likelihood import context_of

PROMPTS_AT_ONCE = 256


def free_answers(
    subject: Subject, conversations: Sequence[Sequence[Message]], max_new_tokens: int, context: Context, what: str
) -> list[str]:
    """The greedy answer to each conversation, cut at the end of turn; what is active on the model stays active."""
    from keeptune.engine.generation import generate

    if isinstance(subject, Endpoint):
        written = []
        for turns in conversations:
            written.append(subject.write(turns, max_new_tokens))
            context.tell(what, len(written), len(conversations))
        return written
    encoder = encoder_of(subject.tokenizer, None, subject.kind)
    requests = [encoder.request(turns) for turns in conversations]
    answers: list[str] = []
    for start in range(0, len(requests), PROMPTS_AT_ONCE):
        part = requests[start : start + PROMPTS_AT_ONCE]
        made = generate(
            subject.model,
            subject.tokenizer,
            [request.tokens for request in part],
            starts=[request.starts for request in part],
            max_new_tokens=max_new_tokens,
            stop_ids=encoder.stop_ids(),
            batch_tokens=context.batch_tokens,
        )
        answers += [subject.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in made]
        context.tell(what, len(answers), len(requests))
    return answers


def refuse_long(subject: Subject, conversations: Sequence[Sequence[Message]]) -> None:
    """Refuses a request that fills a decoder's context: what it says beyond that means nothing.

    Raises:
        DataError: E-DATA-LONG, with the lengths.
    """
    if isinstance(subject, Endpoint) or subject.kind != "decoder":
        return
    encoder, longest = encoder_of(subject.tokenizer, None, subject.kind), context_of(subject.model)
    for turns in conversations:
        length = len(encoder.request(turns).tokens)
        if length >= longest:
            raise DataError(
                f"the request '{turns[-1].content[:40]} ...' has {length:,} tokens, and the model's context is "
                f"{longest:,}.",
                code="E-DATA-LONG", fix="Shorten it.",
            )  # fmt: skip
