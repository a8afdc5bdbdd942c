"""The measurement on a GPU, as far as it goes without one: turns, settings of the peers, rows of the record, a page."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import flops, gpu_contestants, gpu_step, record, table, workload
from benchmarks.gpu_contestants import ENTRIES, Started, running, settings_of
from benchmarks.gpu_step import FIRST, LIMIT, STEPS, TURN, WARM, Race
from benchmarks.gpu_workload import SHAPES, Work
from benchmarks.peers import build, clock
from benchmarks.peers.spanwise import Spanwise
from benchmarks.peers.trl_common import arguments

TINY = Work("tiny", "alpaca", batch=2)
GIVEN = {"model": "m", "rows": "r", "output": "o", "device": "cuda", "attention": None}


class Asked:
    """A parent that asks for these turns, one after the other."""

    def __init__(self, *turns):
        self.turns, self.answers = list(turns), []

    def wait(self):
        return self.turns.pop(0)

    def answer(self, **fields):
        self.answers.append(fields)


class Steps:
    """A clock that counts the steps between its starts and stops."""

    def __init__(self):
        self.step = self.begun = self.rests = 0

    def start(self):
        self.begun = self.step

    def stop(self):
        return {"seconds": float(self.step - self.begun), "wall_seconds": float(self.step - self.begun)}

    def memory(self):
        return {"held": 0, "highest": 0}

    def forget_peak(self):
        pass

    def rest(self):
        self.rests += 1


def test_a_turn_times_its_steps_behind_those_that_lead_in():
    asked = Asked(FIRST | {"lend": True}, TURN | {"lend": False}, TURN | {"lend": True}, TURN | {"lend": True})
    watched = Spanwise(asked, "cpu", dict)
    watched.clock = steps = Steps()
    watched.on_train_begin()
    spans = []
    for step in range(gpu_step.steps_of(rounds=1)):
        answered, steps.step = len(asked.answers), step
        watched.on_step_begin()
        if len(asked.answers) > answered:
            spans.append((asked.answers[-1]["lead_seconds"], asked.answers[-1]["seconds"], step))
    assert [span[:2] for span in spans] == [(1, 1), (2, 4), (2, 4)]
    assert steps.rests == 3
    # The row numbers that are said to be timed are those of the last span.
    rows = [number for step in range(gpu_step.steps_of(rounds=1)) for number in (step, step)]
    assert gpu_step.timed_rows(rows, 2, rounds=1) == [[[n, n] for n in range(spans[-1][2] - STEPS, spans[-1][2])]]


def test_ours_runs_alone_through_the_pipe(tmp_path):
    model = workload.write_model(tmp_path / "model", 0, dtype=torch.bfloat16, **SHAPES["tiny"])
    rows = TINY.draw(gpu_step.steps_of(rounds=2), seed=0)
    given = {
        "model": str(model),
        "rows": str(workload.write_rows(tmp_path / "rows.json", rows)),
        "device": "cpu",
        "attention": None,
    }
    roof = SimpleNamespace(ask=lambda: {"rate": 1e12})
    with running(["own"], TINY, given, tmp_path / "run", rehearsed=True) as started:
        found = gpu_step.race(started, roof, rounds=2, seed=0, lend=True)
        row = gpu_step.alone(found, started, TINY, gpu_step.timed_rows(rows, 2, 2))
    assert len(found.answers["own"]) == 2
    assert len(found.answers["own"][-1]["losses"]) == len(rows) // 2 - 1
    assert abs(found.first["own"]["losses"][0] - 6.24) < 0.1  # ln 512, and what random weights add
    assert row["own_side"]["tokens_per_second"] > row["own_side"]["supervised_per_second"] > 0
    assert row["own_side"]["settings"] == {"path": "fused", "micro_batch_tokens": None}
    assert json.loads(json.dumps(row)) == row


def test_as_it_comes_trl_is_given_nothing_that_changes_its_speed():
    told = settings_of(ENTRIES["trl"], Work("1b", "alpaca", 8), GIVEN)
    assert arguments(told, rows=80) == {
        "output_dir": "o",
        "per_device_train_batch_size": 8,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "max_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": False,
        "max_length": None,  # no row is cut
    }


@pytest.mark.parametrize(("rows", "unpadded"), [("alpaca", True), ("full", None)])
def test_at_its_best_trl_keeps_activations_and_pads_nothing(rows, unpadded):
    given = arguments(settings_of(ENTRIES["trl-liger"], Work("8b", rows, 2), GIVEN), rows=80)
    assert given["model_init_kwargs"] == {"dtype": "bfloat16", "attn_implementation": "sdpa"}
    assert given["gradient_checkpointing"] is False
    assert given["use_liger_kernel"] is True
    assert given.get("padding_free") is unpadded


def test_an_attention_that_is_named_goes_to_trl_at_its_best_alone():
    named = GIVEN | {"attention": "flash_attention_3"}
    chosen = {
        name: settings_of(ENTRIES[name], TINY, named)["attention"] for name in ("own", "trl", "trl-best", "unsloth")
    }
    assert chosen == {"own": None, "trl": None, "trl-best": "flash_attention_3", "unsloth": None}


def test_a_contestant_without_its_packages_is_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("KEEPTUNE_PEERS", str(tmp_path))
    monkeypatch.setitem(ENTRIES, "trl", gpu_contestants.Entry("", "", "default", ("no_such_package",)))
    assert gpu_contestants.fitting(["own", "trl"], rehearsed=False) == ["own"]
    assert "no_such_package" in capsys.readouterr().err
    assert build.interpreter("trl-gpu", ["torch"]) == build.Path(sys.executable)


def stub(seconds, losses=(11.8,), gib=2):
    answer = {"wall_seconds": seconds * 1.5, "lead_seconds": 9.0, "highest": gib << 30, "settings": {}}
    return [answer | {"seconds": seconds * factor, "losses": list(losses)} for factor in (1.0, 2.0)]


def stood(**failures):
    child = SimpleNamespace(ready={"versions": {"trl": "1.16.0"}})
    return Started(children={"own": child, "trl": child}, seconds={"own": 20.0, "trl": 30.0}, failures=failures)


def found():
    answers = {"own": stub(1.0), "trl": stub(3.0, gib=7)}
    return Race(answers=answers, first={name: each[0] for name, each in answers.items()}, rates=[5e14, 8e14])


WORK = Work("8b", "full", batch=2)
TURNS = [[WORK.draw(1, seed=0)] * STEPS] * 2


def test_a_row_holds_both_sides_and_their_ratio_turn_by_turn():
    row = gpu_step.beside("trl", found(), stood(), WORK, TURNS)
    assert row["speed"]["median"] == row["speed"]["lowest"] == 3
    ours, theirs = row["own_side"], row["peer_side"]
    assert (ours["peak_gib"], theirs["peak_gib"], theirs["first_step_seconds"]) == (2, 7, 9)
    assert (ours["seconds_until_ready"], theirs["seconds_until_ready"]) == (20, 30)
    assert ours["step_seconds"] == 1.5 / STEPS
    # Seconds of 1 and 2 for the same tokens: the median of the rates.
    assert ours["tokens_per_second"] == round(STEPS * 4096 * 0.75)
    assert ours["supervised_per_second"] == round(STEPS * 2 * 2047 * 0.75)
    assert row["product_tflops"] == 800


def test_utilisation_is_useful_arithmetic_over_the_best_product():
    """Llama 3.1 8B: 6.98e9 weights in linear maps and 525e6 in the head; 2047 tokens of 2048 predict one."""
    tokens, learned, lowest = 2 * 2047, 2 * 2047, 4096 * (4096 + 2 * 1024)
    beside, through = 2 * 4096 * 1024, 2 * 4096 * 4096 + 3 * 4096 * 14_336
    maps = tokens * (32 * beside + 31 * through) + learned * through
    outside = 2 * (4096 + 1024), 2 * 2 * 4096 + 3 * (4096 + 14_336)
    updates = tokens * (32 * outside[0] + 31 * outside[1]) + learned * outside[1]
    pairs = 2 * 32 * 2047 * 2048 // 2
    arithmetic = (
        4 * maps - 2 * lowest * tokens + 6 * 16 * updates + 3 * 4 * 4096 * pairs + 4 * 128_256 * 4096 * learned
    )  # fmt: skip
    assert WORK.useful(WORK.draw(1, seed=0)) == arithmetic
    share = gpu_step.side("own", found(), 20.0, WORK, TURNS)["utilisation"]
    assert share["highest"] == round(STEPS * arithmetic / 8e14 / 1.0, 4)
    assert share["lowest"] == round(STEPS * arithmetic / 8e14 / 2.0, 4)


def test_whoever_starts_from_another_loss_is_not_timed():
    def child(loss):
        return SimpleNamespace(ask=lambda **_: stub(1.0, [loss])[0], close=lambda: closed.append(loss))

    closed = []
    started = Started(children={"own": child(11.8), "trl": child(11.8 + LIMIT / 2), "unsloth": child(11.8 + LIMIT * 2)})
    raced = gpu_step.race(started, SimpleNamespace(ask=lambda: {"rate": 1.0}), rounds=3, seed=0, lend=True)
    assert {name: len(answers) for name, answers in raced.answers.items()} == {"own": 3, "trl": 3}
    assert started.failures["unsloth"].startswith("starts at a loss of")
    assert closed == [11.8 + LIMIT * 2]


def test_a_peer_without_memory_has_a_row_that_says_so():
    short = Started(children={"trl": SimpleNamespace(close=lambda: None)})

    def dies():
        raise RuntimeError("its last words:\ntorch.OutOfMemoryError: CUDA out of memory.")

    assert short.trying("trl", dies) is None
    assert short.failures == {"trl": "out of memory"}
    assert not short.children
    row = gpu_step.beside("trl", found(), stood(trl="out of memory"), WORK, TURNS)
    assert row["failed"] == "out of memory"
    assert table.on_gpu(row)[2] == "out of memory"


GPU = {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.1, "driver": "570.1", "cuda": "12.8", "capability": "9.0"}


def test_the_record_keeps_other_peers_and_its_page_names_the_card(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    asked = SimpleNamespace(rehearse=False, rounds=2, seed=0)
    row = gpu_step.beside("trl", found(), stood(), WORK, TURNS)
    for peer in ("one", "two", "two"):
        monkeypatch.setattr(sys, "argv", ["gpu_step", "--only", peer])
        gpu_step.write(WORK, [row | {"peer": peer}], GPU, asked)
    (file,) = tmp_path.iterdir()
    assert file.name == "gpu_step.8b-full-2.nvidia-h100-80gb-hbm3.json"
    report = json.loads(file.read_text())
    assert [each["peer"] for each in report["rows"]] == ["one", "two"]
    assert report["command"] == "python -m benchmarks.gpu_step --only one\npython -m benchmarks.gpu_step --only two"
    page = table.page()
    assert "## The training step on a GPU: 8B, rows of 2,048 tokens, 2 a step, on NVIDIA H100 80GB HBM3" in page
    assert "| **3.00x** [3.00 .. 3.00] | 12,288 / 4,096 |" in page
    assert "driver 570.1, CUDA 12.8" in page
    assert f"the last {STEPS} are timed, by the GPU's events." in page


def test_a_rehearsal_leaves_no_record(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    gpu_step.write(TINY, [{"what": "x"}], None, SimpleNamespace(rehearse=True, rounds=2, seed=0))
    assert not list(tmp_path.iterdir())
    assert json.loads(capsys.readouterr().out) == {"what": "x"}


def test_without_a_gpu_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_step", "--shape", "8b"])
    with pytest.raises(SystemExit, match="needs a GPU"):
        gpu_step.main()


def test_events_stand_around_a_span_with_the_device_at_rest(monkeypatch):
    calls = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            calls.append("event")

        def elapsed_time(self, end):
            return 1500.0

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("rest"))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    timed = clock.clock_of("cuda")
    timed.start()
    assert timed.stop()["seconds"] == 1.5
    assert calls == ["rest", "event", "event", "rest"]


def test_rows_of_both_kinds_are_what_they_say():
    full = Work("1b", "full", batch=4).draw(2, seed=1)
    assert [len(row["input_ids"]) for row in full] == [2048] * 8
    assert all(sum(row["completion_mask"]) == 2048 for row in full)
    assert max(max(row["input_ids"]) for row in full) > 100_000  # of the whole vocabulary
    assert TINY.draw(3, seed=1) == workload.draw_rows(6, 1, 512)
    assert {flops.Shape.of(Work(name, "full", 1).config).layers for name in ("1b", "8b")} == {16, 32}
    assert WARM >= 1
