"""Losses over pairs of answers: against transformers' own forward pass and the papers' formulas, and in training."""

from __future__ import annotations

import copy
import math
import random
from types import SimpleNamespace

import pytest
import torch

from keeptune.core.errors import DataError
from keeptune.core.spec import validate
from keeptune.data.encode import Encoded
from keeptune.data.fork import Fork
from keeptune.engine.batch import pack
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import token_logprobs
from keeptune.engine.shared_rows import pack_shared
from keeptune.losses import Loss
from keeptune.losses.next_token import NextToken
from keeptune.stages import _training
from keeptune.stages._masters import Masters
from keeptune.stages._reference import Reference
from keeptune.stages._step import Objective
from tests.stages.test_step import gradients, objective
from tests.stages.test_train import FULL
from tests.stages.tiny_training import rows
from tests.tiny_models import tiny_model

LORA = {"method": {"name": "lora", "rank": 4}}
TOP = {"name": "lora", "rank": 4, "targets": [f"model.layers.1.self_attn.{name}_proj" for name in "qv"]}


def pairs(source="task", count=5, prompt=12, seed=0):
    """Prompts of tokens with a better and a worse answer, of different lengths; every other prompt comes twice."""
    generator, made = random.Random(f"{source}-{seed}"), []
    for number in range(count):
        asked = random.Random(number // 2).choices(range(4, 30), k=prompt)
        better, worse = (generator.choices(range(30, 60), k=generator.randint(1, 5)) for _ in range(2))
        tokens = (*asked, *better, asked[-1], *worse)
        learned = (*[False] * prompt, *[True] * len(better), False, *[True] * len(worse))
        fork = Fork(prompt - 1, prompt + len(better))
        made.append(Encoded(f"r{number}", source, tokens, learned, fork=fork))
    return made


def summed(model, row):
    """Log p of a row's learned tokens, by transformers' forward pass on the row alone, and how many they are."""
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([row.tokens])).logits[0], -1)
    places = [t for t in range(1, len(row.tokens)) if row.learned[t]]
    return sum(float(log_p[t - 1, row.tokens[t]]) for t in places), len(places)


FORMULAS = {
    "dpo": lambda w, v, w0, v0, n, m: math.log1p(math.exp(-0.3 * ((w - w0) - (v - v0)))),
    "ipo": lambda w, v, w0, v0, n, m: ((w - w0) / n - (v - v0) / m - 1 / (2 * 0.4)) ** 2,
    "simpo": lambda w, v, w0, v0, n, m: math.log1p(math.exp(-(2.5 * (w / n - v / m) - 0.7))),
}
SETTINGS = {"dpo": {"beta": 0.3}, "ipo": {"tau": 0.4}, "simpo": {"beta": 2.5, "gamma": 0.7}}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_is_the_mean_of_its_formula_over_pairs(name):
    batch = pairs()
    goal = objective(losses=[{"name": name, **SETTINGS[name]}])
    terms = []
    for row in batch:
        (w, n), (v, m) = (summed(goal.model, ending) for ending in row.endings)
        (w0, _), (v0, _) = (summed(goal.reference.model, ending) for ending in row.endings)
        terms.append(FORMULAS[name](w, v, w0, v0, n, m))
    result = goal.backward(batch)
    assert result.loss == pytest.approx(sum(terms) / len(terms), rel=1e-6)
    assert goal.value(batch) == pytest.approx(result.loss, rel=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "t5"])
def test_other_families_read_pairs_too(family):
    """A learned position, a soft cap, an encoder before the answer: against the scores of whole rows."""
    batch, model = pairs(), tiny_model(family)
    base = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    stacks = {"task": ()}
    reference = Reference(base, stacks, copied=True)
    loss = validate(Loss, {"name": "dpo", "beta": 0.3})
    found = Objective(model, Masters(model), [loss], stacks, reference, micro_batch_tokens=10**6).value(batch)
    rows = [Scored(ending.tokens, ending.learned.index(True)) for row in batch for ending in row.endings]
    now, then = ([sum(values) for values in token_logprobs(of, rows)] for of in (model, base))
    moved = [one - other for one, other in zip(now, then, strict=True)]
    wanted = [math.log1p(math.exp(-0.3 * (w - v))) for w, v in zip(moved[0::2], moved[1::2], strict=True)]
    assert found == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)
    assert abs(found - math.log(2)) > 1e-3, "the model has moved"


@pytest.mark.parametrize("name", FORMULAS)
def test_the_gradient_is_that_of_the_formula(name):
    """Central differences of the loss along the gradient that was found."""
    batch, goal = pairs(), objective(losses=[{"name": name, **SETTINGS[name]}])
    goal.backward(batch)
    slope = {parameter: gradient.double() for parameter, gradient in gradients(goal).items()}
    step = 1e-4 / math.sqrt(sum(float(g.square().sum()) for g in slope.values()))
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, weight in goal.model.named_parameters():
                weight.add_(sign * step * slope[parameter])
        values.append(goal.value(batch))
    found = (values[0] - values[1]) / (2 * step)
    # transformers' norms compute in float32, whatever the model's dtype.
    assert found == pytest.approx(sum(float(g.square().sum()) for g in slope.values()), rel=2e-2)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("limit", [1, 60])
def test_no_cut_parts_a_pair_or_changes_the_gradient(name, limit):
    batch, loss = pairs(), {"name": name, **SETTINGS[name]}
    whole, cut = objective(losses=[loss]), objective(limit, losses=[loss])
    first, second = whole.backward(batch), cut.backward(batch)
    assert first.loss == pytest.approx(second.loss, rel=1e-6)
    assert first.tokens <= second.tokens
    for parameter, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(cut)[parameter], gradient, rtol=1e-5, atol=1e-6)


def test_dpo_begins_at_the_logarithm_of_two_and_pulls_the_answers_apart():
    goal = objective(losses=[{"name": "dpo"}])
    goal.model.load_state_dict(goal.reference.model.state_dict())
    assert goal.value(pairs()) == pytest.approx(math.log(2), rel=1e-6)


def test_smoothing_takes_a_share_of_the_pairs_the_other_way_round():
    plain, smooth = (objective(losses=[{"name": "dpo", "beta": 0.3, **more}]) for more in ({}, {"smoothing": 0.2}))
    batch = pairs(count=1)
    value = plain.value(batch)
    margin = -math.log(math.expm1(value))
    turned = math.log1p(math.exp(margin))
    assert smooth.value(batch) == pytest.approx(0.8 * value + 0.2 * turned, rel=1e-5)


def test_packed_pairs_share_their_prompt_and_know_each_other():
    batch = pairs()
    for made in (pack(batch), pack_shared(batch)):
        assert len(made.pairs) == len(batch)
        for row, found in zip(batch, made.pairs, strict=True):
            for segment, ending in zip(found, row.endings, strict=True):
                own = made.tokens[made.offsets[segment] : made.offsets[segment + 1]].tolist()
                assert list(ending.tokens[-len(own) :]) == own
                assert made.ids[segment] == ending.id
    shared = pack_shared(batch)
    assert len(shared.tokens) < sum(len(row.tokens) for row in batch), "a prompt that comes twice is computed once"
    part, _ = shared.select([shared.pairs[1][0], shared.pairs[1][1]])
    assert len(part.pairs) == 1


def test_the_worse_answer_is_nothing_that_another_loss_learns():
    batch = pack(pairs())
    learned = NextToken().rows(batch)
    worse = {segment for _, segment in batch.pairs}
    assert not worse & set(batch.segment_of()[learned].tolist())
    assert len(learned) == sum(sum(row.endings[0].learned) for row in pairs())


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_kept_states_train_as_a_second_pass_does(bench, monkeypatch, method):
    data = {"task": SimpleNamespace(rows=tuple(pairs(count=20)))}
    settings = {**method, "losses": ["dpo"], "batch_tokens": 120, "steps": 6, "work": {"data": data}}
    bench.train("kept", **settings)
    monkeypatch.setattr(_training, "kept_reference", lambda *args, **kwargs: None)
    bench.train("live", **settings)
    losses = [[line["loss"] for line in bench.metrics(name)] for name in ("kept", "live")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert "reference_kept" in [event["kind"] for event in bench.events("kept")]


def test_top_layers_train_on_pairs_above_a_trunk_as_without_one(bench, monkeypatch):
    data = {"task": SimpleNamespace(rows=tuple(pairs(count=20)))}
    settings = {"method": TOP, "losses": ["simpo"], "batch_tokens": 120, "steps": 6, "work": {"data": data}}
    above = bench.train("above", **settings)
    assert "trunk" in [event["kind"] for event in bench.events("above")]
    monkeypatch.setattr(_training, "trunk_of", lambda *args, **kwargs: None)
    whole = bench.train("whole", **settings)
    one, two = (bench.open(made).model.state_dict() for made in (above, whole))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=2e-4, atol=2e-5)


def test_training_makes_the_better_answers_likelier(bench):
    data = {"task": SimpleNamespace(rows=tuple(pairs(count=8)))}
    bench.train("run", **LORA, losses=["dpo"], batch_tokens=200, steps=30, work={"data": data})
    losses = [line["dpo"] for line in bench.metrics("run") if "dpo" in line]
    assert losses[0] == pytest.approx(math.log(2), rel=1e-3)
    assert losses[-1] < 0.5


def test_a_loss_over_pairs_reads_those_of_the_sources_that_have_some(bench):
    data = {"task": SimpleNamespace(rows=tuple(pairs(count=8))), "replay": rows("replay", 8)}
    losses = ["dpo", {"name": "next_token", "on": "replay"}]
    bench.train("run", **LORA, data={"task": 0.7, "replay": 0.3}, losses=losses, work={"data": data})
    assert {"dpo", "next_token"} <= set(bench.metrics("run")[0])


def test_rows_with_one_answer_are_refused_by_name(bench):
    with pytest.raises(DataError, match="no row of 'task' has both") as caught:
        bench.train("run", **LORA, losses=["dpo"])
    assert caught.value.code == "E-TRAIN-PAIRS"


def test_a_stage_without_a_loss_over_pairs_reads_the_better_answers(bench):
    """The same weights as from rows that never had a worse answer."""
    forked = pairs(count=10)
    made = []
    for name, given in (("forked", forked), ("plain", [row.endings[0] for row in forked])):
        data = {"task": SimpleNamespace(rows=tuple(given))}
        made.append(bench.train(name, **LORA, losses=["next_token"], work={"data": data}))
    one, two = (bench.open(checkpoint).model.state_dict() for checkpoint in made)
    assert all(torch.equal(one[name], two[name]) for name in one)
