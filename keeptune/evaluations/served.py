"""General ability of a model behind an endpoint: by likelihood where the server tells it, else by what it writes."""

from __future__ import annotations

import math
from typing import Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Message
from keeptune.core.score import Item, Score
from keeptune.data.suite import ChoiceTask, Corpus
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._endpoint import Endpoint
from keeptune.evaluations._likelihood import best_option
from keeptune.evaluations._summary import summarise
from keeptune.evaluations._text_match import begins_with
from keeptune.evaluations.retention import generation_score

LONGEST_OPTION = 32


class Served(Evaluation):
    """The suite, asked of a server: the place of `retention` when both sides are endpoints.

    Multiple choice without chat, and corpora, need likelihoods; without them the first is answered in words and the
    second is left out. Chat questions are always answered in words: right when the answer opens with the right option.
    """

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """One score per task, generation task and corpus that the server can answer."""
        assert context.suite is not None, "retention needs a suite"
        subject = context.subject(checkpoint)
        assert isinstance(subject, Endpoint), "only an endpoint is served"
        scores = [choice_score(subject, task, context) for task in context.suite.tasks]
        scores += [generation_score(subject, task, context) for task in context.suite.generations]
        if subject.gives_likelihoods:
            scores += [corpus_score(subject, corpus, context) for corpus in context.suite.corpora]
        return scores

    def reads(self, context: Context) -> Any:
        """The suite."""
        assert context.suite is not None, "retention needs a suite"
        return context.suite.digest()


def choice_score(subject: Endpoint, task: ChoiceTask, context: Context) -> Score:
    """Multiple choice, in the one of two ways that the server allows; a score of one way never meets the other."""
    likely = subject.gives_likelihoods and not task.chat and task.normalise != "prior"
    items = []
    for number, item in enumerate(task.items):
        if likely:
            values = [subject.log_likelihood(item.prompt, option) for option in item.options]
            ranked = [-math.inf if value is None else value for value in values]
            if task.normalise == "bytes":
                ranked = [
                    value / len(option.encode()) for value, option in zip(ranked, item.options, strict=True)
                ]  # fmt: skip
            best = best_option(ranked)
            said, gold = "" if best is None else item.options[best], values[item.gold]
        else:
            said, gold = subject.write([Message("user", item.prompt)], LONGEST_OPTION), None
            best = next((i for i, one in enumerate(item.options) if one == begins_with(said, item.options)), None)
        items.append(
            Item(
                id=item.id, task=task.name, score=float(best == item.gold), cluster=item.cluster, prompt=item.prompt,
                gold=item.options[item.gold], prediction=said, gold_logprob=gold, seed=context.seed,
            )
        )  # fmt: skip
        context.tell(task.name, number + 1, len(task.items))
    chance = task.chance if likely else 0.0
    return summarise(task.name, "accuracy", "accuracy" if likely else "said", items, chance=chance)


def corpus_score(subject: Endpoint, corpus: Corpus, context: Context) -> Score:
    """Bits per byte; the first token has no probability on such servers and is left out on both sides."""
    items = []
    for number, document in enumerate(corpus.documents):
        value = subject.log_likelihood("", document.text)
        bits = math.nan if value is None else -value / math.log(2)
        items.append(
            Item(
                id=document.id, task=corpus.name, score=bits, cluster=document.cluster, prompt=document.text[:200],
                size=float(len(document.text.encode())), seed=context.seed,
            )
        )  # fmt: skip
        context.tell(corpus.name, number + 1, len(corpus.documents))
    return summarise(corpus.name, "corpus", "bits_per_byte", items, higher_is_better=False)
