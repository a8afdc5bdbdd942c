"""What ProMoT adds: the gate between its stages, an earlier adapter that goes on learning, gradient alignment."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from keeptune.core.errors import PlanError, RecipeError
from keeptune.core.score import Item
from keeptune.core.spec import validate
from keeptune.data.encode import Encoded
from keeptune.evaluations._summary import summarise
from keeptune.stages import Stage
from keeptune.stages._alignment import permuted
from keeptune.stages.gate import judge
from tests.stages.test_guard import Scripted
from tests.stages.tiny_training import Bench, rows


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def scores(logprobs: list[float], valid: list[float], size: float = 2.0):
    likelihood = [Item(f"r{i}", "gold_logprob", value, size=size) for i, value in enumerate(logprobs)]
    form = [Item(f"r{i}", "valid_format", value) for i, value in enumerate(valid)]
    return [
        summarise("gold_logprob", "diagnosis", "gold_logprob", likelihood),
        summarise("valid_format", "diagnosis", "valid_format", form),
    ]


BASE = scores([-8.0] * 12, [0.0] * 12)


def test_a_prompt_that_says_the_wrong_labels_passes_and_one_that_says_sentences_does_not():
    right_form = judge(BASE, scores([-4.0, -5.0] * 6, [1.0] * 12), 0.5)
    assert right_form["passed"]
    assert right_form["gain"] == pytest.approx((8 - 4.5) / 2)
    assert right_form["gain_low"] < right_form["gain"]
    assert not judge(BASE, scores([-4.0, -5.0] * 6, [0.0] * 12), 0.5)["passed"]


def test_a_gain_that_may_be_chance_does_not_pass():
    assert not judge(BASE, scores([-1.0, -14.0] * 6, [1.0] * 12), 0.5)["passed"]
    assert not judge(BASE, BASE, 0.0)["passed"]


def test_a_gate_without_dev_rows_says_what_to_do(bench):
    gate = validate(Stage, {"name": "gate"})
    with pytest.raises(RecipeError) as caught:
        gate.run(bench.base, SimpleNamespace(context=None, index=1))
    assert caught.value.code == "E-GATE-DEV"


def first(bench, **settings):
    return bench.train("first", method={"name": "prompt", "length": 3}, steps=2, **settings)


def second(bench, name, checkpoint, **settings):
    from keeptune.core.run import Run

    plain = {
        "name": "train",
        "method": "full",
        "steps": 2,
        "batch_tokens": 48,
        "optimizer": {"name": "adamw", "lr": 1e-2},
    }
    with Run.open(bench.folder / name) as run:
        return validate(Stage, {**plain, **settings}).run(checkpoint, bench.work(run))


def test_an_earlier_prompt_is_frozen_and_a_thawed_one_goes_on_learning_beside_the_weights(bench):
    prompt = first(bench)
    before = load_file(next(prompt.adapters[0].path.glob("*.safetensors")))
    frozen = second(bench, "frozen", prompt)
    assert frozen.adapters == prompt.adapters
    thawed = second(bench, "thawed", prompt, thaw=["prompt"])
    after = load_file(next(thawed.adapters[0].path.glob("*.safetensors")))
    assert after.keys() == before.keys()
    assert any(not bool((after[name] == before[name]).all()) for name in before)
    assert bench.open(thawed).model is not None  # base and prompt of one output fit each other
    with pytest.raises(PlanError, match="'promt' is no adapter"):
        second(bench, "wrong", prompt, thaw=["promt"])


def test_permuted_rows_keep_their_contexts_and_the_answers_are_dealt_out_once():
    plain = rows("task", 20).rows
    dealt = permuted(plain)
    assert [row.tokens[: row.learned.index(True)] for row in dealt] == [
        row.tokens[: row.learned.index(True)] for row in plain
    ]
    answers = [[row.tokens[row.learned.index(True) :] for row in side] for side in (plain, dealt)]
    assert sorted(answers[0]) == sorted(answers[1])
    assert sum(one == other for one, other in zip(*answers, strict=True)) <= 2


def test_gradients_align_when_answers_are_all_alike_and_less_when_they_tell_prompts_apart(bench):
    """Where every answer is one and the same, permuting changes nothing: the cosine is 1."""
    same = SimpleNamespace(
        rows=tuple(Encoded(f"r{i}", "task", (4 + i, 9, 40, 2), (False, False, True, True)) for i in range(12))
    )
    seen = {}
    for name, data in (("same", same), ("apart", rows("task", 40))):
        guard = Scripted({2: (0.5, 0.0), 4: (0.5, 0.0)})
        object.__setattr__(guard, "guard", guard.guard.model_copy(update={"alignment": True}))
        method = {"name": "lora", "rank": 4, "dropout": 0.0}
        bench.train(name, method=method, steps=4, work={"guard": guard, "data": {"task": data}})
        seen[name] = [row["guard_alignment"] for row in bench.metrics(name) if "guard_alignment" in row]
    assert seen["same"] == pytest.approx([1.0, 1.0], abs=1e-4)
    assert all(-1 <= value < 0.9 for value in seen["apart"])
    plain = bench.train("plain", method={"name": "lora", "rank": 4, "dropout": 0.0}, steps=4)
    watched = bench.folder / "apart" / "stages" / "0-train" / "adapter" / "adapter_model.safetensors"
    one, other = load_file(plain.adapters[-1].path / "adapter_model.safetensors"), load_file(watched)
    assert all(bool((one[name] == other[name]).all()) for name in one)
