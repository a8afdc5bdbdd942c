"""KL and agreement against a slow loop over full softmaxes."""

from __future__ import annotations

import pytest
import torch

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Example, Message
from keeptune.data.encode import Encoded, encode
from keeptune.data.suite import Suite
from keeptune.evaluations import Context, Subject
from keeptune.evaluations.drift import Drift, _within
from tests.evaluations.tiny_subject import BASE, context, tiny, tokenizer, with_adapter

ROWS = [
    Example(str(i), (Message("user", f"Area {i}?"), Message("assistant", answer)))
    for i, answer in enumerate(("files", "a graph", "time"))
]
SUITE = Suite("s", "1", instructions=("Write a poem.", "Why?"))


def both(subject, base=None):
    base = base or Subject(tiny(), tokenizer())
    return Context(
        subject=lambda checkpoint: base if checkpoint is BASE else subject, base=BASE, data={"task": ROWS}, suite=SUITE
    )


def by_name(scores):
    return {(score.task, score.metric): score for score in scores}


def test_a_model_has_not_drifted_from_itself():
    scores = by_name(Drift().measure(BASE, context(data={"task": ROWS}, suite=SUITE)))
    assert scores["task_prompts", "kl_to_base"].value == 0.0
    assert scores["task_prompts", "top1_agreement"].value == 1.0
    assert scores["generic_prompts", "kl_to_base"].value == 0.0


def test_the_divergence_is_that_of_a_slow_loop():
    base, other = tiny(), tiny(seed=1)
    scores = by_name(
        Drift().measure(Checkpoint("other"), both(Subject(other, tokenizer()), Subject(base, tokenizer())))
    )
    divergence, agreed, count = 0.0, 0, 0
    for row in ROWS:
        encoded = encode(row, tokenizer())
        with torch.inference_mode():
            p0, p = (m(torch.tensor([encoded.tokens])).logits[0].double().log_softmax(-1) for m in (base, other))
        for t, learned in enumerate(encoded.learned):
            if learned:
                divergence += float((p0[t - 1].exp() * (p0[t - 1] - p[t - 1])).sum())
                agreed += int(p0[t - 1].argmax() == p[t - 1].argmax())
                count += 1
    assert scores["task_prompts", "kl_to_base"].value == pytest.approx(divergence / count, rel=1e-4)
    assert scores["task_prompts", "top1_agreement"].value == pytest.approx(agreed / count)


def test_a_routed_adapter_drifts_on_its_task_only(tmp_path):
    scores = by_name(Drift().measure(Checkpoint("routed"), both(with_adapter("task", tmp_path / "a"))))
    assert scores["task_prompts", "kl_to_base"].value > 0.0
    assert scores["generic_prompts", "kl_to_base"].value == 0.0


def test_a_document_beyond_the_context_is_compared_up_to_it():
    row = Encoded("1", "task", tuple(range(50)), (False,) + (True,) * 49)
    assert _within(row, 20).tokens == tuple(range(20))
    assert len(_within(row, 20).learned) == 20
    assert _within(row, 200) == row
