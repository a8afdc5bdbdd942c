"""The guard stops a stage in time, keeps the best commit inside the budget, and survives a kill."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from keeptune.core.errors import RecipeError
from keeptune.recipes.guarding import budget_settings, told
from keeptune.stages._guard import Budget, Guard, Guarding, against
from tests.stages.tiny_training import Bench


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


class Scripted(Guarding):
    """A guard whose looks are written down beforehand."""

    def __init__(self, looks: dict[int, tuple[float, float]], every: int = 2, **budget) -> None:
        super().__init__(Guard(every=every, budget=Budget(**budget)), [], SimpleNamespace())
        self.looks, self.seen = iter(looks.values()), []

    def look(self, loaded, stack):
        self.seen.append([ref.name for ref in stack])
        target, forgotten = next(self.looks)
        return {"guard_target": target, "guard_forgotten": forgotten}


def weights(checkpoint):
    return load_file(checkpoint.adapters[-1].path / "adapter_model.safetensors")


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def snapshots(bench, name):
    folders = sorted((bench.folder / name / "stages" / "0-train").glob("snapshot-*"))
    return {int(f.name.split("-")[1]): load_file(f / "adapter_model.safetensors") for f in folders}


def test_the_best_step_inside_the_budget_is_kept_and_nothing_is_trained_after_it_is_spent(bench):
    looks = {2: (0.5, 0.0), 4: (0.7, 0.01), 6: (0.6, 0.02), 8: (0.9, 0.03)}
    kept = bench.train(
        "kept", work={"guard": Scripted(looks, forget=0.02)}, saving={"every": 8, "snapshots": 8}, steps=12
    )
    assert [row["step"] for row in bench.metrics("kept")] == list(range(1, 9))
    spent = next(event for event in bench.events("kept") if event["kind"] == "budget_spent")
    assert {key: spent[key] for key in ("step", "kept_step", "what", "value", "limit")} == {
        "step": 8, "kept_step": 4, "what": "forget", "value": 0.03, "limit": 0.02,
    }  # fmt: skip
    plain = bench.train("plain", saving={"every": 8, "snapshots": 12}, steps=12)
    steps = snapshots(bench, "plain")
    assert equal(weights(kept), steps[4])
    assert not equal(weights(kept), weights(plain))
    (line,) = told(bench.folder / "kept")
    assert "step 8" in line
    assert "forget 3.0 points, 2.0 points allowed; step 4 is kept" in line


def test_beyond_the_budget_at_the_first_look_what_the_stage_began_with_is_kept(bench):
    kept = bench.train("kept", work={"guard": Scripted({2: (0.9, 0.5)}, forget=0.02)})
    assert all(float(tensor.abs().max()) == 0 for name, tensor in weights(kept).items() if "lora_B" in name)
    assert "what the stage began with is kept" in told(bench.folder / "kept")[0]


def test_inside_the_budget_and_without_one_the_last_weights_are_the_output(bench):
    looks = {step: (1 / step, 0.01) for step in (2, 4, 6, 8)}
    plain = weights(bench.train("plain"))
    inside = bench.train("inside", work={"guard": Scripted(looks, forget=0.02)})
    watched = bench.train("watched", work={"guard": Scripted({k: (0.1, 0.9) for k in looks})})
    assert equal(weights(inside), plain)
    assert equal(weights(watched), plain)
    assert [row.get("guard_forgotten") for row in bench.metrics("watched")] == [None, 0.9] * 4


def test_a_killed_run_goes_on_with_the_same_choice(bench):
    looks = {2: (0.7, 0.0), 4: (0.5, 0.0), 6: (0.9, 0.5)}
    whole = bench.train("whole", work={"guard": Scripted(looks, forget=0.02)})
    first = Scripted({2: looks[2], 4: looks[4]}, forget=0.02)

    class Killed(Exception):
        pass

    def die(loaded, stack):
        try:
            return Scripted.look(first, loaded, stack)
        except StopIteration:
            raise Killed from None

    first.look = die
    with pytest.raises(Killed):
        bench.train("part", work={"guard": first}, saving={"every": 1})
    resumed = bench.train("part", work={"guard": Scripted({6: looks[6]}, forget=0.02)}, saving={"every": 1})
    assert equal(weights(resumed), weights(whole))


def test_lost_is_the_worse_of_abilities_and_format_and_bits_are_relative():
    base = {"general": 0.8, "leak": 0.1, "bits_per_byte": 2.0, "target": 0.2}
    found = against(base, {"general": 0.75, "leak": 0.3, "bits_per_byte": 2.1, "target": 0.9})
    assert found["guard_forgotten"] == pytest.approx(0.2)
    assert found["guard_bits_rise"] == pytest.approx(0.05)
    assert against(base, {"general": 0.7})["guard_forgotten"] == pytest.approx(0.1)


def test_a_loss_that_is_not_a_number_is_beyond_every_budget():
    guarding = Scripted({}, kl=0.1)
    assert guarding.spent({"guard_kl_to_base": float("nan")}) is not None
    assert guarding.spent({"guard_kl_to_base": 0.1}) is None


def test_budgets_are_read_with_their_units():
    assert budget_settings(["forget=2pt", "bits=1%", "kl=0.05"]) == [
        "guard.budget.forget=0.02", "guard.budget.bits=0.01", "guard.budget.kl=0.05",
    ]  # fmt: skip
    for wrong in ("forget", "memory=2pt", "forget=two", "forget=1e"):
        with pytest.raises(RecipeError, match="cannot be read"):
            budget_settings([wrong])
