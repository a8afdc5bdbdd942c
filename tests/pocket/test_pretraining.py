"""The pretraining scripts on a tiny shape: the same arithmetic as transformers, and exact resumption."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

SEED = 3


@pytest.fixture
def shape():
    from network import Shape

    return Shape(vocabulary=64, width=16, layers=2, heads=2, feed_forward=24, context=32)


@pytest.fixture
def streams():
    from batches import Stream

    random = np.random.default_rng(SEED)
    tokens = random.integers(0, 64, 600).astype(np.uint16)
    learned = random.integers(0, 2, 600).astype(np.uint8)
    return {name: Stream(tokens, learned, np.array([0, 200, 450])) for name in ("books", "chats")}


@pytest.fixture
def settings(shape):
    from pretrain import Settings

    return Settings(rows={"books": 2, "chats": 1}, length=16, masked=("chats",), warmup=3, shape=shape)


def test_the_network_is_the_llama_of_transformers(shape):
    from export import largest_difference, llama_weights
    from network import Network

    network = Network(shape)
    network.initialise(torch.Generator().manual_seed(SEED))
    for block in network.blocks.parameters():
        block.data *= 5 if block.dim() == 2 else 1  # far from the linear regime, so that a wrong detail shows
    assert largest_difference(network, llama_weights(network)) < 1e-5


def test_the_loss_is_the_mean_over_learned_tokens_only(shape):
    from network import Network

    network = Network(shape)
    network.initialise(torch.Generator().manual_seed(SEED))
    tokens = torch.arange(20).reshape(2, 10)
    labels = tokens.roll(-1, 1)
    labels[0, 3:] = -100
    total, count = network(tokens, labels, torch.float32)
    logits = (network.hidden(tokens, torch.float32) @ network.embedding.T).detach()
    slow = [-F.log_softmax(logits[b, t], -1)[labels[b, t]] for b in range(2) for t in range(10) if labels[b, t] >= 0]
    assert int(count) == len(slow) == 13
    assert float(total.detach()) == pytest.approx(float(sum(slow)), rel=1e-5)


def test_a_stopped_run_resumes_exactly(streams, settings, tmp_path):
    from pretrain import Pretraining

    whole = Pretraining(streams, tmp_path / "whole", settings, compiled=False)
    losses = [whole.step() for _ in range(6)]
    first = Pretraining(streams, tmp_path / "parts", settings, compiled=False)
    parts = [first.step() for _ in range(2)]
    first.commit()
    second = Pretraining(streams, tmp_path / "parts", settings, compiled=False)
    parts += [second.step() for _ in range(4)]
    assert parts == losses
    assert second.state == whole.state
    for (name, ours), (_, theirs) in zip(
        second.network.named_parameters(), whole.network.named_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_branch_decays_to_zero_and_leaves_its_origin_alone(streams, settings, tmp_path):
    from commits import commits
    from pretrain import Pretraining, rate_scale

    stable = Pretraining(streams, tmp_path / "stable", settings, compiled=False)
    for _ in range(4):
        stable.step()
    origin = stable.commit()
    decaying = replace(settings, decay_steps=4)
    branch = Pretraining(streams, tmp_path / "branch", decaying, start=origin, compiled=False)
    while not branch.finished:
        branch.step()
    branch.commit()
    assert branch.state["step"] == 8
    assert [rate_scale(step, 4, decaying) for step in (4, 6, 8)] == [1.0, 0.5, 0.0]
    assert commits(tmp_path / "stable") == [origin]
    assert Pretraining(streams, tmp_path / "branch", decaying, start=origin, compiled=False).finished


def test_a_loss_that_is_not_finite_is_never_committed(streams, settings, tmp_path):
    from pretrain import Pretraining

    run = Pretraining(streams, tmp_path, settings, compiled=False)
    run.network.norm.data.fill_(math.inf)
    with pytest.raises(FloatingPointError):
        run.step()
    assert not list(tmp_path.glob("step-*"))


def test_rows_cover_a_stream_evenly_and_begin_at_near_document_starts(streams):
    stream = streams["books"]
    begins = [stream.begin(k, 16) for k in range(200)]
    gaps = np.diff(sorted({0, *begins, len(stream.tokens) - 17}))
    assert gaps.max() <= 16
    assert not any(start < begin <= start + 8 for begin in begins for start in stream.starts)


def test_orthogonalised_matrices_have_singular_values_near_one():
    from optimiser import orthogonalise

    generator = torch.Generator().manual_seed(SEED)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 40, generator=generator)).float())
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_bytes_of_tokens_add_up_to_the_text():
    from prepare import train_tokenizer

    from keeptune.pocket.bytes_per_token import byte_lengths

    text = "It’s 1,234 — naïve ✓ <tag> and plain words, plain words."
    tokenizer = train_tokenizer([text] * 4, 300)
    lengths = byte_lengths(tokenizer)
    assert sum(lengths[i] for i in tokenizer.encode(text).ids) == len(text.encode())
    assert lengths[:5] == [0] * 5


def test_only_the_assistant_is_learned_in_chats():
    from prepare import encode, train_tokenizer

    tokenizer = train_tokenizer(["ask answer"], 300)
    ids, learned = encode(tokenizer, (("ask", "user"), ("answer", "assistant"), ("ask", "user"), ("no", "assistant")))
    kept = [i for i, mark in zip(ids, learned, strict=True) if mark]
    assert tokenizer.decode(kept, skip_special_tokens=False) == "answer<|end|>no<|end|>"


@pytest.mark.parametrize(("answer", "expected"), [("2 + 3 = <<2+3=5>>5\n#### 5", "2 + 3 = 5\nThe answer is 5")])
def test_calculator_marks_are_taken_out(answer, expected):
    from corpus import gsm8k

    assert gsm8k({"question": "q", "answer": answer})[1] == (expected, "assistant")
