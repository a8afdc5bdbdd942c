"""A reference that is read from kept states gives what a second forward pass gives, at the price of one pass in all."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from keeptune.engine import trunk
from keeptune.stages import _compared, _training
from tests.stages.test_train import FULL
from tests.stages.tiny_training import rows

MIX = {"data": {"task": 0.6, "replay": 0.4}, "batch_tokens": 120, "steps": 12, "saving": {"every": 20}}
LORA = {"method": {"name": "lora", "rank": 4}}
COMPARING = [
    {"name": "kl_to_base", "on": "replay"},
    {"name": "kl_to_base", "on": "task", "direction": "reverse"},
    {"name": "masked_kl"},
    {"name": "stm", "threshold": 60.0},
    {"name": "flow"},
]


@pytest.mark.parametrize("loss", COMPARING, ids=lambda loss: loss["name"])
@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_kept_states_train_as_a_second_pass_does(bench, monkeypatch, loss, method):
    settings = {**MIX, **method, "losses": ["next_token", loss]}
    kept = bench.train("kept", **settings)
    monkeypatch.setattr(_training, "kept_reference", lambda *args, **kwargs: None)
    live = bench.train("live", **settings)
    one, two = (bench.open(made).model.state_dict() for made in (kept, live))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=2e-4, atol=2e-5)
    assert "reference_kept" in [event["kind"] for event in bench.events("kept")]
    assert "reference_kept" not in [event["kind"] for event in bench.events("live")]


def test_a_second_run_reads_what_the_first_one_computed(bench, monkeypatch, tmp_path):
    computed = []
    inner = trunk._computed
    monkeypatch.setattr(trunk, "_computed", lambda *args: computed.append(1) or inner(*args))
    settings = {**MIX, **LORA, "losses": ["next_token", {"name": "kl_to_base", "on": "replay"}]}
    for rate in (1e-3, 2e-3):
        optimizer = {"name": "adamw", "lr": rate}
        bench.train(str(rate), **settings, optimizer=optimizer, work={"cache": tmp_path / "cache"})
    assert computed == [1]


def test_rows_that_come_once_are_not_kept_where_the_adapter_can_be_taken_off(bench):
    losses = ["next_token", {"name": "kl_to_base", "on": "replay"}]
    once = {**MIX, "steps": 1, "losses": losses}
    bench.train("lora", **once, **LORA)
    bench.train("full", **once, **FULL)
    assert "reference_kept" not in [event["kind"] for event in bench.events("lora")]
    assert "reference_kept" in [event["kind"] for event in bench.events("full")]


def test_rows_that_share_a_name_need_the_model_itself(bench):
    named = rows("replay", 40).rows
    same = tuple(dataclasses.replace(row, id="one") for row in named)
    data = {"task": rows("task", 40), "replay": SimpleNamespace(rows=same)}
    losses = ["next_token", {"name": "kl_to_base", "on": "replay"}]
    bench.train("full", **{**MIX, **FULL, "losses": losses}, work={"data": data})
    told = [event["kind"] for event in bench.events("full")]
    assert "reference_copy" in told
    assert "reference_kept" not in told


def test_states_beyond_the_limit_are_not_kept(bench, monkeypatch):
    monkeypatch.setattr(_compared, "LIMIT_BYTES", 100)
    bench.train("run", **MIX, **LORA, losses=["next_token", "kl_to_base"])
    assert "reference_kept" not in [event["kind"] for event in bench.events("run")]
