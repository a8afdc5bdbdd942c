"""The page of measurements is made from the records; ratios, rounds and arithmetic are what they say."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import flops, record, train_step, workload
from benchmarks.interleave import interleaved, ratio
from benchmarks.peers.pipe import Contestant
from benchmarks.peers.session import encoded
from benchmarks.table import PAGE, TABLES, TITLES, page
from keeptune.engine.shared_rows import pack_shared
from tests.flop_count import FlopCount
from tests.tiny_models import tiny_model


def test_the_page_is_the_one_that_the_records_make():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_record_has_a_table_and_says_where_it_comes_from():
    assert TITLES.keys() == TABLES.keys()
    for name in TITLES:
        file = record.RESULTS / f"{name}.json"
        if file.exists():
            report = json.loads(file.read_text(encoding="utf-8"))
            assert report["command"].split()[:3] == ["python", "-m", f"benchmarks.{name}"]
            assert {"machine", "versions", "seeds", "rows"} <= report.keys()
            assert set(report["machine"]) == {"processor", "flags", "cores"}


def test_every_contestant_runs_once_per_round_in_changing_order():
    turns = []
    work = {name: lambda turn, name=name: turns.append((turn, name)) or float(turn) for name in "abc"}
    seconds = interleaved(work, rounds=20, seed=0, warm=2)
    assert seconds == {name: [float(turn) for turn in range(2, 22)] for name in "abc"}
    orders = ["".join(name for turn, name in turns if turn == number) for number in range(22)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 3


def test_a_ratio_is_taken_within_each_round():
    noise = np.random.default_rng(0).uniform(1, 10, size=50)
    found = ratio(list(3 * noise), list(noise))
    assert found == {"median": 3, "p10": 3, "p90": 3, "lowest": 3, "highest": 3, "n": 50}


@pytest.mark.parametrize("lengths", [(7,), (5, 9, 3)])
def test_the_forward_arithmetic_is_what_a_forward_pass_executes(lengths):
    """Row by row through transformers, whose eager attention computes the full square."""
    model = tiny_model("llama")
    with torch.no_grad(), FlopCount() as counted:
        for length in lengths:
            model(torch.arange(3, 3 + length)[None])
    tokens, squares = sum(lengths), sum(length**2 for length in lengths)
    expected = flops.forward(flops.Shape.of(model.config.to_dict()), flops.Work(tokens, squares, tokens, squares))
    assert counted.total == expected


def test_lengths_are_those_of_instruction_data():
    rows = workload.draw_rows(20_000, seed=1, vocabulary=10)
    prompts = np.array([row["completion_mask"].count(0) for row in rows])
    answers = np.array([row["completion_mask"].count(1) for row in rows])
    assert abs(np.median(prompts) - 48) <= 1
    assert abs(np.median(answers) - 75) <= 2
    assert abs(answers.mean() - 103) < 4  # 109 without the longest answer of 400
    assert 1.9 < workload.padding(rows) < 2.2
    assert workload.padding(workload.grouped_by_length(rows, seed=0)) < 1.06


def test_the_rows_of_a_task_share_their_instruction_and_nothing_else():
    rows = workload.draw_task(64, seed=1)
    own = [len(row["input_ids"]) - workload.INSTRUCTION for row in rows]
    assert len(pack_shared(encoded(rows)).tokens) == workload.INSTRUCTION + sum(own)
    assert 34 <= np.mean(own) <= 48


def test_what_rows_share_is_useful_once():
    lengths = [5, 9]
    rows = [{"input_ids": [*range(n)], "completion_mask": [0] * (n - 2) + [1] * 2} for n in lengths]
    alone, shared = train_step.useful(rows, 0), train_step.useful(rows, 4)
    shape = flops.Shape.of(workload.SHAPE)
    read_pairs = 3 + 4 + 7 + 8  # of the tokens before the last two of each
    # And the last of each is left out.
    assert alone == flops.low_rank_step(shape, flops.Work(12, 10 + 36, 4, read_pairs), train_step.RANK)
    assert shared == flops.low_rank_step(shape, flops.Work(8, 46 - 10, 4, read_pairs), train_step.RANK)


def test_the_last_layer_works_for_what_is_read():
    shape = flops.Shape(layers=3, width=8, heads=2, key_heads=1, inner=16, vocabulary=32)
    maps = sum(inputs * outputs for inputs, outputs in shape.maps)
    everywhere, nowhere = flops.Work(5, 15, 5, 15), flops.Work(5, 15, 0, 0)
    assert flops.forward(shape, everywhere) == 3 * (2 * maps * 5 + 4 * 8 * 15) + 2 * 32 * 8 * 5
    keys_and_values = 2 * (2 * 8 * 4) * 5
    assert flops.forward(shape, nowhere) == 2 * (2 * maps * 5 + 4 * 8 * 15) + keys_and_values


CHILD = "tests.benchmarks.pipe_echo"


def test_a_child_answers_each_command_with_its_own_seconds_and_memory(tmp_path):
    with Contestant(sys.executable, CHILD, {"work": 200_000}, tmp_path / "log") as child:
        idle, busy = child.ask(do="nothing"), child.ask(do="work")
        assert busy["seconds"] > idle["seconds"]
        assert busy["made"] == sum(range(200_000))
        assert 0 < busy["resident"] <= busy["peak"]
    assert child.process.returncode == 0
    assert "printed by the child" in (tmp_path / "log").read_text()


def test_a_child_that_ends_early_is_quoted(tmp_path):
    with pytest.raises(RuntimeError, match="no such setting"):
        Contestant(sys.executable, CHILD, {}, tmp_path / "log")


@pytest.mark.parametrize("units", ["amx_bf16", "none"])
def test_a_step_is_raced_in_the_dtypes_that_somebody_would_take_there(units, monkeypatch):
    monkeypatch.setattr(record, "units", lambda _: units)
    entries = {name: train_step.ENTRIES[name] for name in train_step.fitting()}
    met = {
        (own, peer)
        for own, peer in itertools.product(entries, train_step.ENTRIES)
        if entries[own].role == "own" != train_step.ENTRIES[peer].role
        and train_step.meet(entries[own], train_step.ENTRIES[peer])
    }
    fast, exact = {("own", "1.14-fast"), ("own", "1.9")}, {("own-fp32", "1.14-fp32")}
    assert (fast | exact if units == "amx_bf16" else exact | {("own-fp32", "1.9")}) <= met
    assert (entries.keys() == train_step.ENTRIES.keys()) == (units == "amx_bf16")
    assert not {("own", "1.14-fp32"), ("own-fp32", "1.14-fast")} & met
