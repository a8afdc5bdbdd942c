"""Drift: KL divergence to the base model and agreement of the first choices, on task and on generic prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Message
from keeptune.core.score import Item, Score
from keeptune.data.encode import Encoded, encoder_of
from keeptune.data.packing import filled
from keeptune.evaluations import Context, Evaluation, Subject
from keeptune.evaluations._likelihood import context_of
from keeptune.evaluations._summary import summarise

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.engine.batch import PackedBatch

POSITIONS_AT_ONCE = 512


class Drift(Evaluation):
    """How far the next-token distribution has moved from the base's, whatever the scores say.

        KL(p0 || p) = sum_v p0(v) (log p0(v) - log p(v))      nats per position, p0 the base

    On the answers of task rows, with all adapters active; and along the base's own greedy answers to unrelated
    requests, off-task. Descriptive: the verdict does not use it.
    """

    data: str = Field("task", description="name of the data source of the task")
    rows: int = Field(100, gt=0, le=10_000, description="most rows of each kind")
    max_new_tokens: int = Field(16, gt=0, le=256, description="length of the base's answers to unrelated requests")

    def measure(self, checkpoint: Checkpoint, context: Context) -> list[Score]:
        """`kl_to_base` and `top1_agreement`, each on `task_prompts` and on `generic_prompts`."""
        assert context.base is not None, "drift compares with a base"
        base, subject = context.subject(context.base), context.subject(checkpoint)
        longest = min(_longest(one) for one in (base, subject))
        scores = []
        if self._has_task(context):
            encoder = encoder_of(base.tokenizer, None, base.kind)
            task = [_within(encoder.encode(row), longest) for row in context.rows(self.data)[: self.rows]]
            scores += self._compare(base, subject, "task_prompts", task, context)
        if context.suite and context.suite.instructions:
            generic = self._base_answers(base, context.suite.instructions[: self.rows], context)
            generic = [_within(row, longest) for row in generic]
            scores += self._compare(base, subject, "generic_prompts", generic, context)
        return scores

    def reads(self, context: Context) -> Any:
        """The base, the task rows and the requests."""
        assert context.base is not None, "drift compares with a base"
        rows = context.rows(self.data)[: self.rows] if self._has_task(context) else []
        requests = context.suite.instructions[: self.rows] if context.suite else ()
        return [context.subject(context.base).identity(), [[row.id, row.target] for row in rows], list(requests)]

    def _has_task(self, context: Context) -> bool:
        """Whether rows were held out, or nothing was split: what was trained on is not looked at."""
        return any(name in context.data for name in (f"{self.data}/test", self.data))

    def _base_answers(self, base: Subject, requests: Sequence[str], context: Context) -> list[Encoded]:
        from keeptune.engine.generation import generate

        encoder = encoder_of(base.tokenizer, None, base.kind)
        prompts = [encoder.prompt([Message("user", request)]) for request in requests]
        with base.off_task():
            answers = generate(
                base.model,
                base.tokenizer,
                prompts,
                max_new_tokens=self.max_new_tokens,
                stop_ids=encoder.stop_ids(),
                batch_tokens=context.batch_tokens,
            )
        # The end of turn is a choice too: it is appended, so that its position is compared.
        end = encoder.end_id
        made = []
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            answered = [*answer, end]
            learned = (False,) * len(prompt) + (True,) * len(answered)
            made.append(Encoded(f"request-{index}", "requests", (*prompt, *answered), learned))
        return made

    def _compare(
        self, base: Subject, subject: Subject, name: str, rows: Sequence[Encoded], context: Context
    ) -> list[Score]:
        from keeptune.engine.batch import pack

        kl_items, same_items = [], []
        on_task = name == "task_prompts"
        taught = [row for row in rows if any(row.learned[1:])]
        for places in filled(enumerate(len(row.tokens) for row in taught), context.batch_tokens):
            batch = pack([taught[place] for place in places])
            divergence_N, same_N, row_N = _divergence(base, subject, batch, on_task)
            for row, identity in enumerate(batch.ids):
                own = row_N == row
                size = float(own.sum())
                item = Item(identity, name, float(divergence_N[own].sum()), size=size, seed=context.seed)
                kl_items.append(item)
                same_items.append(replace(item, score=float(same_N[own].sum())))
            context.tell(name, len(kl_items), len(rows))
        return [
            summarise(name, "drift", "kl_to_base", kl_items, higher_is_better=False),
            summarise(name, "drift", "top1_agreement", same_items),
        ]


def _longest(subject: Subject) -> int:
    """Tokens of a text that it reads under all its adapters."""
    with subject.on_task():
        return context_of(subject.model)


def _within(row: Encoded, longest: int) -> Encoded:
    """The row up to the smaller context of the two models: beyond it one of them says nothing."""
    return replace(row, tokens=row.tokens[:longest], learned=row.learned[:longest])


def _divergence(base: Subject, subject: Subject, batch: PackedBatch, on_task: bool) -> tuple[Tensor, Tensor, Tensor]:
    """KL (N,), agreement of the first choices (N,) and the row (N,) of each position that has a target."""
    import torch

    from keeptune.engine.batch import IGNORED
    from keeptune.engine.head import head_logits
    from keeptune.engine.packed import packed_hidden

    places = (batch.targets != IGNORED).nonzero()[:, 0]
    with torch.inference_mode():
        hidden = []
        for side in (base, subject):
            with side.on_task() if on_task else side.off_task():
                whole = packed_hidden(side.model, batch.read_at(places))
            hidden.append(whole[places.to(whole.device)])
        kl, same = [], []
        for start in range(0, len(places), POSITIONS_AT_ONCE):
            part = slice(start, start + POSITIONS_AT_ONCE)
            base_NV = head_logits(base.model, hidden[0][part]).log_softmax(-1)
            own_NV = head_logits(subject.model, hidden[1][part]).log_softmax(-1)
            kl.append((base_NV.exp() * (base_NV - own_NV)).sum(-1).clamp_min(0).cpu())
            same.append((base_NV.argmax(-1) == own_NV.argmax(-1)).double().cpu())
    return torch.cat(kl).double(), torch.cat(same), batch.segment_of()[places].cpu()
