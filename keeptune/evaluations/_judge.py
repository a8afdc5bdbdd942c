"""A local model as judge: which of two answers does it find better, asked in both orders?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeptune.core.example import Message
from keeptune.evaluations import Context, Subject
from keeptune.evaluations._likelihood import Answers, option_log_likelihoods
from keeptune.statistics.preference import Outcome, in_both_orders

QUESTION = """\
Two answers to one request are given. Which one is better?

Request: {request}

Answer A: {first}

Answer B: {second}

Say A or B."""
EVEN = 1e-6
"""Nats within which the two letters are equally likely."""


@dataclass(frozen=True)
class Duel:
    """A request with the answers of both sides."""

    request: str
    before: str
    after: str


def judged(judge: Subject, duels: Sequence[Duel], context: Context) -> list[tuple[Outcome, Outcome]]:
    """Per duel the outcome for `after` as answer B, and as answer A. Equal answers tie without being asked."""
    answers, asked = Answers(judge.tokenizer, judge.kind), [duel for duel in duels if duel.before != duel.after]
    groups = [
        answers.rows([Message("user", QUESTION.format(request=duel.request, first=first, second=second))], ["A", "B"])
        for duel in asked
        for first, second in ((duel.before, duel.after), (duel.after, duel.before))
    ]
    values = option_log_likelihoods(judge, groups, context, "judging")
    told = iter(
        (_outcome(own[1] - own[0]), _outcome(other[0] - other[1]))
        for own, other in zip(values[::2], values[1::2], strict=True)
    )
    return [("tie", "tie") if duel.before == duel.after else next(told) for duel in duels]


def agreed(outcomes: Sequence[tuple[Outcome, Outcome]]) -> list[Outcome]:
    """One outcome per duel."""
    return [in_both_orders(*pair) for pair in outcomes]


def _outcome(ahead: float) -> Outcome:
    """From log p(letter of `after`) - log p(letter of `before`)."""
    return "win" if ahead > EVEN else "lose" if ahead < -EVEN else "tie"
