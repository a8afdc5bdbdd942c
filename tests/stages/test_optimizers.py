"""An optimizer that the device cannot run gives way to one that can, and the run says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from keeptune.stages.optimizers.adamw import AdamW
from keeptune.stages.optimizers.paged_adamw import PagedAdamW
from tests.stages.tiny_training import Bench


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_without_a_gpu_the_paged_optimizer_becomes_adamw_with_its_settings():
    paged = PagedAdamW(lr=3e-4, schedule="constant", betas=(0.8, 0.95), clip=0.3)
    stand_in = paged.stand_in([("weight", nn.Parameter(torch.zeros(2, 2)))])
    assert isinstance(stand_in, AdamW)
    assert {**stand_in.to_dict(), "name": "paged_adamw"} == paged.to_dict()


def test_the_run_records_which_optimizer_was_used_and_trains_as_with_that_one(bench):
    for name in ("paged_adamw", "adamw"):
        bench.train(name, optimizer={"name": name, "lr": 1e-2}, steps=3)
    replaced = [event for event in bench.events("paged_adamw") if event["kind"] == "optimizer_replaced"]
    assert [(event["asked"], event["used"]) for event in replaced] == [("paged_adamw", "adamw")]
    assert not [event for event in bench.events("adamw") if event["kind"] == "optimizer_replaced"]
    losses = [[line["loss"] for line in bench.metrics(name)] for name in ("paged_adamw", "adamw")]
    assert losses[0] == losses[1]
