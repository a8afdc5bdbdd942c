"""Recovery: a throw-away copy is shown a few of the base's own answers; what comes back was never lost.

At most 50 steps on 100 answers that the base gives to unrelated requests. They hold none of the measured abilities, so
they can give a model its form back, and no knowledge (after Zheng et al. 2025, arXiv:2501.13453, who call it spurious
forgetting). The copy carries a LoRA of its own beside whatever it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Example, Message
from keeptune.evaluations import Context, Subject
from keeptune.evaluations._free_answers import free_answers
from keeptune.evaluations._likelihood import context_of

if TYPE_CHECKING:
    from keeptune.models.load import Loaded

STEPS, ROWS, ROWS_A_STEP, RATE, ANSWER_TOKENS = 50, 100, 8, 1e-3, 48
NAME = "recovery"


def base_answers(context: Context) -> list[Example]:
    """What the base says to the suite's last requests."""
    assert context.base is not None, "recovery needs a base"
    requests = list(context.suite.instructions[-ROWS:]) if context.suite else []
    asked = [[Message("user", request)] for request in requests]
    subject = context.subject(context.base)
    with subject.off_task():
        given = free_answers(subject, asked, ANSWER_TOKENS, context, "the base's answers")
    return [
        Example(f"replay-{index}", (*turns, Message("assistant", answer)))
        for index, (turns, answer) in enumerate(zip(asked, given, strict=True))
        if answer
    ]


def recover(loaded: Loaded, checkpoint: Checkpoint, rows: Sequence[Example], seed: int) -> Subject:
    """Trains the copy and gives it back as a subject; `loaded` is changed and belongs to nobody else."""
    import torch

    from keeptune.data.encode import encoder_of
    from keeptune.engine.batch import IGNORED, pack
    from keeptune.engine.head import head_of
    from keeptune.engine.packed import packed_hidden
    from keeptune.engine.rows import active
    from keeptune.losses.next_token import next_token
    from keeptune.methods.lora import LoRA

    names = [ref.name for ref in checkpoint.adapters if ref.scope == "always"]
    loaded.model.requires_grad_(False)
    LoRA(rank=16).attach(loaded.model, NAME, seed=seed)
    trained = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    encoder = encoder_of(loaded.tokenizer, None, "decoder")
    encoded = [encoder.encode(row) for row in rows]
    generator = torch.Generator().manual_seed(seed)
    loaded.model.train()
    with active(loaded.model, [*names, NAME]):
        longest = context_of(loaded.model)
        encoded = [replace(row, tokens=row.tokens[:longest], learned=row.learned[:longest]) for row in encoded]
        encoded = [row for row in encoded if any(row.learned[1:])]
        for step in range(STEPS if encoded else 0):  # a base that says nothing reminds of nothing
            chosen = torch.randperm(len(encoded), generator=generator)[:ROWS_A_STEP].tolist()
            batch = pack([encoded[index] for index in chosen])
            batch = batch.read_at(torch.nonzero(batch.targets != IGNORED)[:, 0]).to(loaded.model.device)
            loss = next_token(packed_hidden(loaded.model, batch), batch.targets, head_of(loaded.model)) / batch.learned
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / STEPS)
            optimizer.step()
    loaded.model.eval()
    return Recovered(loaded.model, loaded.tokenizer, checkpoint.adapters)


class Recovered(Subject):
    """The copy, off its task: the adapters that everybody gets, and the recovery."""

    def off_task(self) -> AbstractContextManager[None]:
        """As `Subject.off_task`, the recovery on top."""
        return self._active([*(ref.name for ref in self.adapters if ref.scope == "always"), NAME])


def recovered_context(context: Context, subject: Subject) -> Context:
    """The context in which any checkpoint but the base is the copy, measured anew."""
    return replace(
        context, cache=None, subject=lambda asked: context.subject(asked) if asked == context.base else subject
    )
