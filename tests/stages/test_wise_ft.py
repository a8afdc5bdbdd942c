"""WiSE-FT: the weights are on the line, the strength is the largest that passes in order, and the bound holds."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from keeptune.core.errors import PlanError, RecipeError
from keeptune.core.run import Run
from keeptune.core.score import Item
from keeptune.core.spec import validate
from keeptune.evaluations._summary import summarise
from keeptune.stages import Stage
from keeptune.stages.wise_ft import lost_at_most
from tests.stages.tiny_training import Bench


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def scores(wrong: int, leaks: int, n: int = 100):
    right = [Item(f"q{i}", "sums", float(i >= wrong)) for i in range(n)]
    said = [Item(f"r{i}", "format_leak", float(i < leaks)) for i in range(n)]
    return [
        summarise("sums", "accuracy", "accuracy", right),
        summarise("format_leak", "leak", "leak", said, higher_is_better=False),
    ]


class Leaky:
    """A guard in whose eyes every strength leaks as it is told to."""

    context = SimpleNamespace(suite=object())

    def __init__(self, leaks: list[int]) -> None:
        self.leaks, self.seen = iter(leaks), []

    def scores(self, loaded, stack):
        self.seen.append({name: tensor.clone() for name, tensor in loaded.model.state_dict().items()})
        return scores(0, 0), scores(0, next(self.leaks))


def scaled(bench, name, checkpoint, leaks, **settings):
    guard = Leaky(leaks)
    with Run.open(bench.folder / name) as run:
        stage = validate(Stage, {"name": "wise_ft", **settings})
        made = stage.run(checkpoint, bench.work(run, index=1, guard=guard, base=bench.base))
    return made, guard


def test_a_trained_base_goes_back_to_the_largest_strength_that_passes_in_order(bench):
    trained = bench.train("first", method="full", steps=3)
    made, guard = scaled(bench, "second", trained, [0, 1, 60, 0], alphas=[1.0, 0.25, 0.5, 0.75], forget=0.06)
    assert len(guard.seen) == 3  # 0.75 failed, so 1 was not asked
    base, end, found = (bench.open(one).model.state_dict() for one in (bench.base, trained, made))
    for name, tensor in found.items():
        assert torch.allclose(tensor, base[name] + 0.5 * (end[name] - base[name]), atol=1e-6)
    assert not torch.equal(found["lm_head.weight"], end["lm_head.weight"])
    event = next(event for event in bench.events("second") if event["kind"] == "wise_ft")
    assert event["alpha"] == 0.5
    assert [row["passed"] for row in event["tried"]] == [True, True, False]


def test_a_lora_is_scaled_and_full_strength_is_what_it_was(bench):
    trained = bench.train("first", steps=3)
    half, guard = scaled(bench, "half", trained, [0, 90], alphas=[0.5, 1.0], forget=0.06)
    whole, _ = scaled(bench, "whole", trained, [0], alphas=[1.0], forget=0.06)
    key = next(name for name in guard.seen[0] if name.endswith("lora_B"))
    assert torch.allclose(guard.seen[0][key] * 2, guard.seen[1][key])
    full, part, again = (
        {n: t for n, t in bench.open(one).model.state_dict().items() if "lora_B" in n} for one in (trained, half, whole)
    )
    assert all(torch.allclose(2 * part[name], full[name]) for name in full)
    assert all(torch.equal(again[name], full[name]) for name in full)
    assert half.adapters[0].name == trained.adapters[0].name


def test_when_nothing_passes_the_base_is_the_result(bench):
    trained = bench.train("first", steps=2)
    made, guard = scaled(bench, "second", trained, [90], alphas=[0.5, 1.0])
    assert made == bench.base
    assert len(guard.seen) == 1


def test_without_questions_kept_apart_or_without_a_line_it_says_what_to_do(bench):
    trained = bench.train("first", method={"name": "prompt", "length": 3}, steps=2)
    with pytest.raises(PlanError) as caught:
        scaled(bench, "second", trained, [0])
    assert caught.value.code == "E-WISE-KIND"
    with pytest.raises(RecipeError) as refused:
        validate(Stage, {"name": "wise_ft"}).run(trained, SimpleNamespace(guard=None, index=1))
    assert refused.value.code == "E-WISE-GUARD"


def test_the_bound_is_above_the_truth_in_all_but_one_case_of_twenty():
    generator, below = np.random.default_rng(0), 0
    for _ in range(400):
        flips = generator.random(200) < 0.05
        after = [Item(f"q{i}", "sums", float(not flip)) for i, flip in enumerate(flips)]
        base = [Item(f"q{i}", "sums", 1.0) for i in range(200)]
        found = lost_at_most(
            [summarise("sums", "accuracy", "accuracy", base)], [summarise("sums", "accuracy", "accuracy", after)]
        )
        below += found < 0.05
    assert below / 400 < 0.075  # 0.05 with a standard error of 0.011
    assert lost_at_most(scores(0, 0, 20), scores(0, 0, 20)) > 0.08  # twenty items without a flip prove little
    assert lost_at_most(scores(0, 0), scores(0, 9)) > lost_at_most(scores(0, 0), scores(9, 0)) - 1e-9
