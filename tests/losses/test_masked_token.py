"""Masked-language-model training: the share and kinds of masks, and transformers' own loss on the same masks."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.core.example import Example
from keeptune.data.encode import encode_all
from keeptune.engine.batch import IGNORED, pack
from keeptune.losses import Loss
from keeptune.losses.masked_token import MaskedToken
from keeptune.methods import Full
from keeptune.models.load import load
from keeptune.stages._masters import Masters
from keeptune.stages._step import Objective
from tests.engine.test_pairs import MASK, folder_of
from tests.tiny_models import VOCABULARY

FAMILIES = ("bert", "roberta", "deberta-v2")


@pytest.fixture(params=FAMILIES)
def model(tmp_path, request):
    return load(folder_of(tmp_path / "base", request.param), dtype="float32", device="cpu").model


def texts(model, *words, source="facts"):
    examples = [Example(str(n), text=text, source=source) for n, text in enumerate(words)]
    return list(encode_all(examples, model.loaded.tokenizer, too_long="drop", context=64, kind="encoder").rows)


def objective_of(model, **settings):
    Full().attach(model)
    return Objective(
        model=model, masters=Masters(model), losses=[MaskedToken(**settings)], stacks={"facts": ()}, reference=None,
        micro_batch_tokens=10_000,
    )  # fmt: skip


def test_a_share_of_the_words_is_asked_for_and_most_of_it_masked(tmp_path):
    model = load(folder_of(tmp_path / "base", "bert"), dtype="float32", device="cpu").model
    rows = texts(model, *[" ".join(f"w{3 + (i + n) % 50}" for i in range(60)) for n in range(100)])
    batch, loss = pack(rows), MaskedToken(share=0.2)
    model.train()
    torch.manual_seed(0)
    given = loss.given(batch, model)
    asked = given.targets != IGNORED
    assert (given.targets[asked] == batch.tokens[asked]).all()
    assert (given.tokens[~asked] == batch.tokens[~asked]).all()
    assert not asked[torch.tensor(batch.offsets[:-1])].any(), "no special token is asked for"
    count, words = int(asked.sum()), 100 * 60
    assert abs(count - 0.2 * words) < 4 * (words * 0.2 * 0.8) ** 0.5
    masked = (given.tokens == MASK)[asked].float().mean()
    changed = (given.tokens != batch.tokens)[asked].float().mean()
    assert abs(masked - 0.8) < 0.05
    assert 0.85 < changed < 0.95
    assert not torch.equal(loss.given(batch, model).tokens, given.tokens), "every step has its own"
    model.eval()
    assert torch.equal(loss.given(batch, model).tokens, loss.given(batch, model).tokens)


def test_its_loss_and_gradient_are_those_of_transformers_on_the_same_masks(model):
    rows = texts(model, "w3 w4 w5 w6 w7", "w9 w10 w11", "w12 w13 w14 w15 w16 w17 w18")
    objective = objective_of(model, share=0.5)
    torch.manual_seed(3)
    found = objective.backward(rows).loss
    ours = {name: master.grad.clone() for name, master in objective.masters.named if master.grad is not None}
    torch.manual_seed(3)
    model.train()
    given = objective.losses[0].given(pack(rows), model)
    width = max(given.lengths)
    ids, labels = torch.zeros(3, width, dtype=torch.long), torch.full((3, width), IGNORED)
    mask = torch.zeros(3, width, dtype=torch.long)
    for row, (start, end) in enumerate(zip(given.offsets[:-1], given.offsets[1:], strict=True)):
        ids[row, : end - start], labels[row, : end - start] = given.tokens[start:end], given.targets[start:end]
        mask[row, : end - start] = 1
    model.zero_grad()
    expected = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    expected.backward()
    assert abs(found - float(expected.detach())) < 1e-5
    named = dict(model.named_parameters())
    assert len(ours) > 10
    for name, gradient in ours.items():
        assert_close(gradient, named[name].grad, rtol=1e-3, atol=1e-5)


def test_a_short_batch_asks_for_one_word_at_least(tmp_path):
    model = load(folder_of(tmp_path / "base", "bert"), dtype="float32", device="cpu").model
    batch = pack(texts(model, "w3 w4"))
    for seed in range(20):
        torch.manual_seed(seed)
        model.train()
        assert (MaskedToken(share=0.01).given(batch, model).targets != IGNORED).sum() >= 1


def test_a_model_without_that_head_is_refused(tmp_path):
    model = load(folder_of(tmp_path / "base", "bert"), dtype="float32", device="cpu").model
    batch = pack(texts(model, "w3 w4"))
    del model.cls
    with pytest.raises(PlanError) as caught:
        MaskedToken().given(batch, model)
    assert caught.value.code == "E-MODEL-CLOZE"
    assert "masked_token" in Loss.names()
    assert VOCABULARY > MASK
