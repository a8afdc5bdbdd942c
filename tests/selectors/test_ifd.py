"""Both ratios against transformers' own logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from keeptune.core.errors import DataError, PlanError
from keeptune.core.example import Example
from keeptune.core.spec import validate
from keeptune.data.encode import encode, encode_prompt
from keeptune.selectors import Context, Selector


def losses(row, pocket) -> tuple[float, float]:
    """Mean loss of the answer and its end token: behind the prompt, and behind the opening token alone."""
    prompt = list(encode_prompt(row.prompt, pocket.tokenizer))
    whole = list(encode(row, pocket.tokenizer).tokens)
    # What a template writes behind the end of the turn is not learned and not scored.
    answer = [token for token, learned in zip(whole, encode(row, pocket.tokenizer).learned, strict=True) if learned]
    assert whole[: len(prompt)] == prompt
    assert whole[len(prompt) : len(prompt) + len(answer)] == answer
    opening = pocket.tokenizer.bos_token_id
    opening = pocket.tokenizer.eos_token_id if opening is None else opening
    found = []
    for before in (prompt, [opening]):
        ids = torch.tensor([[*before, *answer]])
        with torch.no_grad():
            logs = pocket.model(ids).logits[0].double().log_softmax(-1)
        own = [logs[len(before) - 1 + place, token].item() for place, token in enumerate(answer)]
        found.append(-float(np.mean(own)))
    return found[0], found[1]


def test_both_ratios_are_those_of_the_models_own_logits(pocket, talks):
    given, alone = np.array([losses(row, pocket) for row in talks]).T
    for name, ratios in (("ifd", given / alone), ("ifd_perplexity", np.exp(given - alone))):
        settings = {"name": name, "share": 1.0, "most": 1e9}
        chosen = validate(Selector, settings).select(talks, Context(model=pocket))
        assert list(chosen.indices) == np.argsort(-ratios).tolist()
        np.testing.assert_allclose(chosen.scores, np.sort(ratios)[::-1], rtol=1e-4)


def test_the_two_definitions_can_order_examples_differently():
    given, alone = np.array([0.2, 2.0]), np.array([0.4, 3.0])
    assert np.argmax(given / alone) == 1
    assert np.argmax(np.exp(given - alone)) == 0


def test_pairs_that_do_not_fit_are_dropped_and_documents_have_no_ratio(pocket, talks):
    ratios = validate(Selector, {"name": "ifd", "share": 1.0, "most": 1e9}).select(talks, Context(model=pocket)).scores
    middle = float(np.median(ratios))
    rows = [*talks, Example("doc", text="Only a text.")]
    chosen = validate(Selector, {"name": "ifd", "share": 1.0, "most": middle}).select(rows, Context(model=pocket))
    assert sorted(chosen.scores) == pytest.approx(sorted(ratio for ratio in ratios if ratio <= middle))
    assert 5 not in chosen.indices
    with pytest.raises(DataError) as caught:
        validate(Selector, {"name": "ifd", "most": 1e-6}).select(rows, Context(model=pocket))
    assert caught.value.code == "E-SELECT-NOTHING"


def test_without_a_model_the_error_says_how_to_name_one(talks):
    with pytest.raises(PlanError) as caught:
        validate(Selector, "ifd").select(talks, Context())
    assert caught.value.code == "E-SELECT-MODEL"
