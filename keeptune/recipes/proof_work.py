"""What a proof reads and writes, counted on a sample of its items: the proof's own minutes in a plan.

A model is measured twice, as base and as adapted, and a fifth of the suite once more for the noise floor; the base's
scores are kept, so a second recipe on the same base pays for one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keeptune.core.example import Message
from keeptune.data.encode import encoder_of
from keeptune.data.label_set import LABELLED
from keeptune.evaluations.format_drift import FormatDrift
from keeptune.evaluations.target import Target
from keeptune.planning.time import Reading
from keeptune.stages._rescoring import SHARE

if TYPE_CHECKING:
    from keeptune.core.example import Example
    from keeptune.data.suite import ChoiceTask, Suite
    from keeptune.recipes.recipe import Proof

SAMPLE = 40
"""Items of each task that are encoded; the others count as long as these."""


def proof_reading(
    proof: Proof, suite: Suite, rows: Sequence[Example], tokenizer: Any, kind: str, *, head: bool
) -> Reading:
    """Tokens of the whole proof.

    Args:
        proof: of the recipe.
        suite: that it asks.
        rows: of the target's test part.
        tokenizer: of the base; None of an image encoder.
        kind: of the base.
        head: whether a head answers the target.
    """
    if kind == "image" or tokenizer is None:
        return Reading(0, 0, 0)
    length = _Length(tokenizer, kind)
    if kind == "encoder":
        words = length.mean(document.text for corpus in suite.corpora for document in corpus.documents)
        once = Reading(round(words * sum(len(corpus.documents) for corpus in suite.corpora)), 0, 0)
        return (once + _target(proof, rows, length, head=True)) * 2
    general = sum((_choice(task, length) for task in suite.tasks), Reading(0, 0, 0))
    for corpus in suite.corpora:
        tokens = round(length.mean(document.text for document in corpus.documents) * len(corpus.documents))
        general += Reading(tokens, tokens, 0)
    open_ended = Reading(0, 0, 0)
    for task in suite.generations:
        asked = length.mean(item.prompt for item in task.items)
        open_ended += Reading(round(asked * len(task.items)), 0, task.max_new_tokens * len(task.items))
    if proof.target is not None and suite.instructions:
        asked = round(length.mean(suite.instructions) * len(suite.instructions))
        open_ended += Reading(asked, 0, FormatDrift().max_new_tokens * len(suite.instructions))
    return (general + open_ended + _target(proof, rows, length, head=head)) * 2 + general * (1 / SHARE)


class _Length:
    """Tokens of texts and of conversations."""

    def __init__(self, tokenizer: Any, kind: str) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder_of(tokenizer, None, kind)

    def mean(self, texts: Iterable[str]) -> float:
        """Mean tokens of a sample, evenly drawn."""
        found = [len(self.tokenizer(text, verbose=False)["input_ids"]) for text in _sample(list(texts))]
        return sum(found) / len(found) if found else 0.0

    def asked(self, rows: Sequence[Example]) -> float:
        """Mean tokens of requests as they are served."""
        found = [len(self.encoder.prompt(row.prompt)) for row in _sample(list(rows))]
        return sum(found) / len(found) if found else 0.0

    def framed(self, text: str) -> int:
        """Tokens of one request as it is served."""
        return len(self.encoder.prompt([Message("user", text)]))


def _choice(task: ChoiceTask, length: _Length) -> Reading:
    """The prompt of a question once, then each of its options."""
    read = scored = 0
    sample = list(_sample(list(task.items)))
    for item in sample:
        options = sum(len(length.tokenizer(option, verbose=False)["input_ids"]) for option in item.options)
        prompt = length.framed(item.prompt) if task.chat else len(length.tokenizer(item.prompt)["input_ids"])
        read, scored = read + prompt + options, scored + options
    share = len(task.items) / max(1, len(sample))
    return Reading(round(read * share), round(scored * share), 0)


def _target(proof: Proof, rows: Sequence[Example], length: _Length, *, head: bool) -> Reading:
    target = proof.target
    if not isinstance(target, Target) or not rows:
        return Reading(0, 0, 0)
    asked = round(length.asked(rows) * len(rows))
    if head:
        return Reading(asked, 0, 0)
    answers = sorted({row.target for row in rows})
    if target.metric in LABELLED:
        labels = round(length.mean(answers) * len(answers) * len(rows))
        return Reading(asked + labels, labels, 0)
    said = round(length.mean(row.target for row in rows) * len(rows))
    if target.metric == "bits_per_byte":
        return Reading(asked + said, said, 0)
    if target.metric == "preference_accuracy":
        both = said + round(length.mean(row.rejected or "" for row in rows) * len(rows))
        return Reading(2 * asked + both, both, 0)
    return Reading(asked, 0, min(said, target.max_new_tokens * len(rows)))


def _sample(items: Sequence[Any]) -> Iterator[Any]:
    """At most `SAMPLE` of them, evenly drawn."""
    step = max(1, len(items) // SAMPLE)
    yield from items[::step][:SAMPLE]
