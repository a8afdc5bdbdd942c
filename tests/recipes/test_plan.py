"""`plan` lists every method with its forecast, recommends one that fits, and refuses with the arithmetic."""

from __future__ import annotations

import pytest

from keeptune.core.errors import PlanError
from keeptune.methods import Method
from keeptune.models import load
from keeptune.recipes import plan as planner

SMALL = ["data.task.train=20", "proof.items=50"]


@pytest.fixture
def no_weights(monkeypatch):
    """Reading a weight is a failure; the machine's rate is given."""

    def refuse(*args, **kwargs):
        raise AssertionError("a plan reads no weights")

    monkeypatch.setattr(load, "_model", refuse)
    monkeypatch.setattr(planner, "product_rate", lambda device: 1e11)


def test_every_method_is_planned_or_refused_with_its_reason(no_weights):
    result = planner.plan_recipe("lora", SMALL)
    named = {row["name"].removesuffix(" (nf4)") for row in result["methods"]} | {
        row["name"] for row in result["refused"]
    }
    assert named == set(Method.names())
    assert all(row["reason"] for row in result["refused"])
    assert result["recommended"]["name"] == "lora"
    assert result["recipe"]["train"]["trainable_parameters"] == next(
        row["trainable_parameters"] for row in result["methods"] if row["name"] == "lora"
    )
    assert set(result["power"]["items"].values()) == {50}
    assert "recommended  lora" in result["text"]


def test_the_kl_reference_of_full_tuning_is_its_states_and_its_head_and_no_second_copy(no_weights):
    without, with_kl = (
        planner.plan_recipe("sft", [*SMALL, *extra])["recipe"]["train"]["memory"]
        for extra in ([], ["stages[0].losses=[next_token, kl_to_base]"])
    )
    assert without["reference"] == 0
    assert 0 < with_kl["reference"] < without["weights"]


def test_what_does_not_fit_is_refused_and_says_what_would_save_memory(no_weights, monkeypatch):
    monkeypatch.setattr(planner, "available_memory", lambda: 1000)
    monkeypatch.setattr(planner, "resident_bytes", lambda: 1000)
    with pytest.raises(PlanError) as caught:
        planner.plan_recipe("lora", SMALL)
    assert caught.value.code == "E-PLAN-MEMORY"
    assert "saves" in caught.value.fix


def test_layers_are_computed_twice_where_memory_is_short_unless_the_recipe_says_how_many(no_weights, monkeypatch):
    whole = planner.plan_recipe("lora", SMALL)["recipe"]["train"]
    monkeypatch.setattr(planner, "resident_bytes", lambda: 0)
    monkeypatch.setattr(planner, "available_memory", lambda: whole["memory"]["resident"])
    result = planner.plan_recipe("lora", SMALL)
    layers, of = result["recipe"]["train"]["layers_twice"]
    assert 0 < layers < of
    assert f"{layers} of {of} layers computed twice" in result["text"]
    settled = planner.plan_recipe("lora", [*SMALL, "stages[0].memory.gradient_checkpointing=false"])
    assert settled["recipe"]["train"]["layers_twice"] == [0, of]


def test_a_recipe_that_does_not_fit_is_not_recommended(no_weights, monkeypatch):
    states = {row["name"]: row["memory"]["state"] for row in planner.plan_recipe("sft", SMALL)["methods"]}
    monkeypatch.setattr(planner, "resident_bytes", lambda: 0)
    monkeypatch.setattr(planner, "available_memory", lambda: states["full"])
    result = planner.plan_recipe("sft", SMALL)
    assert not result["fits"]
    assert result["recommended"]["name"] == "lora"
    assert "does not fit" in result["text"]
