"""Default behaviour on unrelated requests: training-like answers, length, refusals, language, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Message
from keeptune.core.score import Item, Score
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._free_answers import free_answers
from keeptune.evaluations._summary import summarise
from keeptune.evaluations._text_match import words
from keeptune.evaluations._training_like import TrainingLike

REFUSAL = re.compile(
    r"^\W*(i'?m sorry|sorry|i can(no|')t|i am (not able|unable)|i'?m (not able|unable)|as an ai"
    r"|抱歉|对不起|我无法|我不能)",
    re.IGNORECASE,
)
HAN = re.compile(r"[\u3400-\u9fff]")


class Behaviour(Evaluation):
    """What every answer to an unrelated request looks like, asked off-task; descriptive, no verdict rests on it.

    `training_like` is learned on the training answers and the base's answers to every other request, and counted on the
    requests between.
    """

    data: str = Field("task", description="the source whose answers are the training format")
    requests: int = Field(300, gt=1, le=10_000, description="most requests, the first ones")
    max_new_tokens: int = Field(32, gt=0, le=1024, description="tokens of each answer that are looked at")

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """Shares (refusal, han, json), the mean number of words, and the share of training-like answers."""
        requests = self._requests(context)
        if not requests:
            return []
        said = self._answers(checkpoint, requests, context)
        looks: list[tuple[str, Callable[[str], float]]] = [
            ("words", lambda answer: float(len(words(answer)))),
            ("refusal", lambda answer: float(REFUSAL.match(answer) is not None)),
            ("han", lambda answer: float(2 * len(HAN.findall(answer)) > len(words(answer)))),
            ("json", lambda answer: float(is_json(answer))),
        ]
        scores = [self._score(name, look, list(enumerate(said)), requests, context) for name, look in looks]
        trained = self._trained(context)
        if trained and context.base is not None:
            plain = said if checkpoint == context.base else self._answers(context.base, requests, context)
            like = TrainingLike(trained, plain[::2])
            asked = list(enumerate(said))[1::2]
            scores.append(self._score("training_like", lambda answer: float(like(answer)), asked, requests, context))
        return scores

    def reads(self, context: Context) -> Any:
        """The base, the requests and the training answers."""
        base = context.subject(context.base).identity() if context.base else None
        return [base, self._requests(context), self._trained(context)]

    def _trained(self, context: Context) -> list[str]:
        """The training answers; none where only the rows of the test are at hand, as in a proof of two models."""
        if f"{self.data}/train" not in context.data and self.data not in context.data:
            return []
        return [row.target for row in context.rows(self.data, "train")]

    def _requests(self, context: Context) -> list[str]:
        return list(context.suite.instructions[: self.requests]) if context.suite else []

    def _answers(self, checkpoint: Checkpoint, requests: list[str], context: Context) -> list[str]:
        subject = context.subject(checkpoint)
        with subject.off_task():
            asked = [[Message("user", request)] for request in requests]
            return free_answers(subject, asked, self.max_new_tokens, context, "behaviour")

    def _score(
        self,
        name: str,
        look: Callable[[str], float],
        answers: list[tuple[int, str]],
        requests: list[str],
        context: Context,
    ) -> Score:
        items = [
            Item(
                id=f"request-{index}", task="behaviour", score=look(answer), prompt=requests[index],
                prediction=answer, seed=context.seed,
            )
            for index, answer in answers
        ]  # fmt: skip
        return summarise("behaviour", "diagnosis", name, items, higher_is_better=False)


def is_json(answer: str) -> bool:
    """Whether the answer is a JSON object or list."""
    try:
        return isinstance(json.loads(answer), (dict, list))
    except ValueError:
        return False
