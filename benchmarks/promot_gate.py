"""What could be read of ProMoT's prompt before the weights learn, to tell whether they will learn the form.

    mass    mean over dev rows of log sum_k p(label_k | prompt, x), in nats: how much of the form is left to learn
    skew    KL of the labels' shares in dev from the mean of p(label_k | prompt, x) / sum_j p(label_j | prompt, x): what
            the weights must learn of the labels whatever x is, in nats
    pull    cosine, over all weights, of the second stage's first gradient with that of mean log p(a label opens the
            answer | request) without the prompt, the sign such that 1 is a step that makes requests leak most

`pull` is also read without the prompt, which is plain tuning's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Example, Message
from keeptune.engine.rows import active
from keeptune.engine.scored import Scored
from keeptune.evaluations import Context
from keeptune.evaluations._likelihood import Answers, option_log_likelihoods
from keeptune.methods import load_adapter
from keeptune.models.load import load
from keeptune.recipes.material import Material
from keeptune.studies import Plain

BATCH = 64
"""Training rows, and requests, of a gradient."""


def told(checkpoint: Checkpoint, context: Context, material: Material) -> Plain:
    """The figures of one prompt."""
    labels, dev = context.answers("task"), context.rows("task", "dev")
    values = label_log_likelihoods(checkpoint, dev, labels, context)
    mass = values.logsumexp(1)
    shares = (values - mass[:, None]).exp()
    wanted = Counter(row.target for row in dev)
    parts = [(wanted[label] / len(dev), float(shares[:, k].mean())) for k, label in enumerate(labels)]
    said = Counter(values.argmax(1).tolist())
    right = sum(labels[place] == row.target for place, row in zip(values.argmax(1).tolist(), dev, strict=True))
    with_prompt, without = pulls(checkpoint, context, material, labels)
    return {
        "mass": float(mass.mean()),
        "skew": sum(share * math.log(share / mean) for share, mean in parts if share),
        "labels_said": len(said),
        "commonest": max(said.values()) / len(dev),
        "dev": right / len(dev),
        "pull": with_prompt,
        "pull_without_prompt": without,
    }


def label_log_likelihoods(
    checkpoint: Checkpoint, rows: Sequence[Example], labels: Sequence[str], context: Context
) -> Tensor:
    """`[rows, labels]`: log p(label, end of turn | prompt, x), the task's adapters on."""
    subject = context.subject(checkpoint)
    answers = Answers(subject.tokenizer, subject.kind)
    asked = [answers.rows(row.prompt, list(labels)) for row in rows]
    with subject.on_task("task"):
        return torch.tensor(option_log_likelihoods(subject, asked, context, "labels"), dtype=torch.float64)


def pulls(checkpoint: Checkpoint, context: Context, material: Material, labels: Sequence[str]) -> tuple[float, float]:
    """`pull` behind the prompt and without it, in float32."""
    loaded, (prompt,) = load(checkpoint.base, dtype="float32", device="cpu"), checkpoint.adapters
    weights = list(loaded.model.parameters())
    load_adapter(loaded.model, prompt.path, name=prompt.name, force=True)
    for weight in weights:
        weight.requires_grad_(True)
    answers = Answers(loaded.tokenizer, "decoder")
    suite = context.suite
    assert suite is not None, "the requests are there"
    asked = [answers.rows([Message("user", one)], list(labels)) for one in suite.instructions[:BATCH]]
    opened = sorted({one.tokens[one.start] for one in asked[0]})
    rows = [Scored(row.tokens, row.learned.index(True)) for row in material.train["task"].rows[:BATCH]]

    def gradient(loss: Tensor) -> list[Tensor]:
        return [part.double() for part in torch.autograd.grad(loss, weights)]

    with active(loaded.model, []):
        logp = _logprobs(loaded.model, [Scored(group[0].tokens[: group[0].start], 1) for group in asked])
        last = torch.stack([one[-1] for one in logp])
        leaking = gradient(-last[:, opened].logsumexp(1).mean())
        plain = gradient(_loss(loaded.model, rows))
    with active(loaded.model, [prompt.name]):
        prompted = gradient(_loss(loaded.model, rows))
    return _cosine(prompted, leaking), _cosine(plain, leaking)


def _loss(model: torch.nn.Module, rows: Sequence[Scored]) -> Tensor:
    """Mean cross-entropy of the rows' learned tokens."""
    parts = [
        logp[row.start - 1 : -1].gather(1, torch.tensor(row.tokens[row.start :])[:, None])
        for row, logp in zip(rows, _logprobs(model, rows), strict=True)
    ]
    return -torch.cat(parts).mean()


def _logprobs(model: torch.nn.Module, rows: Sequence[Scored]) -> list[Tensor]:
    """Of each row, `[tokens, vocabulary]`: log p of what follows each token."""
    longest = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([[*row.tokens, *[0] * (longest - len(row.tokens))] for row in rows])
    real = torch.tensor([[1] * len(row.tokens) + [0] * (longest - len(row.tokens)) for row in rows])
    logits = model(input_ids=tokens, attention_mask=real, use_cache=False).logits
    assert logits.shape[1] == longest, "a prompt's positions are taken off"
    return [one[: len(row.tokens)].log_softmax(-1) for one, row in zip(logits, rows, strict=True)]


def _cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    dot = sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))
    norms = [sum(float(a.square().sum()) for a in side) for side in (one, other)]
    return dot / math.sqrt(norms[0] * norms[1])
