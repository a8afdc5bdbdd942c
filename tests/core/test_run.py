"""A run folder through kills, moves, second runs, changed settings and damage."""

from __future__ import annotations

import errno
import gzip
import json
import math
import os
import shutil
import signal
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from keeptune.core.checkpoint import AdapterRef, Checkpoint
from keeptune.core.commit import write_commit
from keeptune.core.errors import MachineError, ModelError, RecipeError
from keeptune.core.files import write_bytes
from keeptune.core.run import FOLLOWS, Run
from keeptune.core.score import Item, Score
from tests.core.crash import failing_at, killed_in_a_child, steps_of, watching


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def kinds(run: Run) -> list[str]:
    return [event["kind"] for event in run.events()]


def adapter(run: Run, text: str = "weights") -> Checkpoint:
    """A checkpoint whose adapter is a commit of stage 0."""
    parent = run.stage_folder(0, "train")
    path = write_commit(parent, "step-4", lambda staging: write_bytes(staging / "w", text.encode()), info={"step": 4})
    return Checkpoint("pocket", adapters=(AdapterRef("task", path),))


def test_a_run_goes_through_its_states_and_says_so_in_files(folder):
    with Run.open(folder) as run:
        assert run.state == "new"
        for state in ("checking", "baseline", "running"):
            run.enter(state, detail="stage 1")
        stored = json.loads((folder / "state.json").read_text())
        assert (stored["state"], stored["detail"], stored["pid"]) == ("running", "stage 1", os.getpid())
        run.enter("done")
    assert [event["state"] for event in run.events()] == ["checking", "baseline", "running", "done"]
    assert [event["n"] for event in run.events()] == [0, 1, 2, 3]
    assert all(event["time"].endswith("+00:00") for event in run.events())


@pytest.mark.parametrize("state", FOLLOWS)
def test_every_state_can_be_left_and_the_working_ones_can_be_stopped(state):
    assert FOLLOWS[state]
    if state in ("checking", "baseline", "running"):
        assert {"stopping", "failed", "interrupted"} <= set(FOLLOWS[state])


def test_a_state_that_cannot_follow_is_our_mistake(folder):
    with Run.open(folder) as run:
        with pytest.raises(AssertionError, match="running cannot follow new"):
            run.enter("running")
        with pytest.raises(AssertionError, match="no such state"):
            run.enter("training")


def test_leaving_a_working_run_counts_as_interrupted(folder):
    with Run.open(folder) as run:
        run.enter("checking")
    with Run.open(folder) as run:
        assert run.state == "interrupted"


def test_a_second_run_in_the_folder_is_refused_and_harms_nothing(folder):
    with Run.open(folder) as run:
        run.enter("checking")
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(MachineError) as caught:
            Run.open(folder)
        assert caught.value.code == "E-RUN-LOCKED"
        assert {path: path.read_bytes() for path in folder.iterdir()} == before


def work(folder: Path) -> None:
    with Run.open(folder) as run:
        run.enter("checking")
        run.check_exactness({"seed": 7})
        run.enter("running")
        checkpoint = run.stage_done(0, "train", "digest")
        if checkpoint is None:
            for step in range(1, 4):
                run.metric(step, loss=1 / step)
            checkpoint = adapter(run)
            run.commit_stage(0, "train", "digest", checkpoint, {})
        run.write_items(
            "adapted", [Score("t", "accuracy", "accuracy", 1.0, True, 1, 0.0, items=(Item("1", "t", 1.0),))]
        )
        run.enter("done")


def test_a_run_killed_at_any_boundary_can_be_finished_by_running_it_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    boundaries = len(steps_of(lambda: work(tmp_path / "whole")))
    for n in range(boundaries):
        path = tmp_path / f"run-{n}"
        killed_in_a_child(lambda path=path: work(path), n)
        work(path)
        with Run.open(path) as run:
            assert run.state == "done"
            assert [row["step"] for row in run.metrics()] == [1, 2, 3]
            assert [event["n"] for event in run.events()] == list(range(len(run.events())))
            assert run.stage_done(0, "train", "digest") is not None
            assert [score.value for score in run.read_items("adapted")] == [1.0]
        left = [file.name for file in path.rglob("*") if file.name.startswith((".staging", ".trash"))]
        assert left == []


def test_a_killed_run_is_seen_as_dead(folder):
    pid = os.fork()
    if pid == 0:
        Run.open(folder).enter("checking")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 7, "lo')
    assert json.loads((folder / "state.json").read_text())["state"] == "checking"
    with Run.open(folder) as run:
        assert run.state == "interrupted"
        assert kinds(run) == ["state", "died", "cut"]
        assert run.events()[-1]["bytes"] == 15


def test_what_interrupted_commits_left_is_swept_wherever_it_is(folder):
    kept = folder / "stages" / "0-train" / "commits-ab" / "step-1"
    left = [folder / ".staging-state.json", kept.parent / ".staging-step-2" / "w", kept.parent / ".trash-step-0" / "w"]
    for path in [kept / "w", *left]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    Run.open(folder).close()
    assert [path for path in folder.rglob("*") if path.name.startswith((".staging", ".trash"))] == []
    assert (kept / "w").exists()


def test_times_are_in_utc_and_a_clock_that_jumps_back_keeps_the_order(folder, monkeypatch):
    times = iter(["2030-01-01T00:00:00+00:00", "2020-01-01T00:00:00+00:00"])
    with Run.open(folder) as run:
        monkeypatch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        run.event("now")
        monkeypatch.setattr("keeptune.core.run.now", lambda: next(times))
        run.event("later")
        run.event("earlier by the clock")
        monkeypatch.undo()
        time.tzset()
    written = datetime.fromisoformat(run.events()[0]["time"])
    assert written.utcoffset() == timedelta(0)
    assert abs(written - datetime.now(timezone.utc)) < timedelta(minutes=10)
    assert [event["n"] for event in run.events()] == [0, 1, 2]


def test_a_loss_that_is_not_finite_is_never_logged_as_zero(folder):
    with Run.open(folder) as run:
        run.metric(1, loss=math.nan, norm=math.inf)
    logged = json.loads((folder / "metrics.jsonl").read_text())
    assert logged["loss"] == "nan"
    assert logged["norm"] == "inf"
    assert 0.0 not in logged.values()


def test_of_a_step_done_twice_the_later_record_counts(folder):
    with Run.open(folder) as run:
        for step, stage, loss in [(1, "a", 3.0), (2, "a", 2.0), (2, "a", 2.5), (1, "b", 9.0)]:
            run.metric(step, stage=stage, loss=loss)
        assert [(row["stage"], row["step"], row["loss"]) for row in run.metrics()] == [
            ("a", 1, 3.0),
            ("a", 2, 2.5),
            ("b", 1, 9.0),
        ]


def test_an_equal_stage_is_done_and_a_different_one_is_not(folder):
    with Run.open(folder) as run:
        assert run.stage_done(0, "train", "a") is None
        checkpoint = adapter(run)
        run.commit_stage(0, "train", "a", checkpoint, {"tokens": 100})
        assert run.stage_done(0, "train", "a") == checkpoint
        assert run.stage_done(0, "train", "b") is None
        assert run.stage_done(1, "train", "a") is None


def test_a_moved_folder_resumes(folder, tmp_path):
    with Run.open(folder) as run:
        run.commit_stage(0, "train", "a", adapter(run), {})
        run.write_recipe({"name": "x"})
        run.check_exactness({"seed": 7})
    inside = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert str(folder).encode() not in inside
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.move(folder, moved)
    with Run.open(moved) as run:
        checkpoint = run.stage_done(0, "train", "a")
        assert checkpoint.adapters[0].path == moved / "stages" / "0-train" / "step-4"
        assert (checkpoint.adapters[0].path / "w").read_text() == "weights"
        run.check_exactness({"seed": 7})


def test_a_relative_output_folder_means_the_same_after_changing_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Run.open("runs/one") as run:
        monkeypatch.chdir("/")
        run.commit_stage(0, "train", "a", adapter(run), {})
        assert run.stage_done(0, "train", "a").adapters[0].path.is_relative_to(tmp_path)


@pytest.mark.parametrize("victim", ["step-4/w", "step-4/manifest.json", "done/checkpoint.json", "done/manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_stage_runs_again(folder, victim, damage):
    with Run.open(folder) as run:
        run.commit_stage(0, "train", "a", adapter(run), {})
        path = folder / "stages" / "0-train" / victim
        data = bytearray(path.read_bytes())
        path.unlink()
        if damage == "flip":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        assert run.stage_done(0, "train", "a") is None
        assert kinds(run)[-1] == "damaged"
        run.commit_stage(0, "train", "a", adapter(run), {})
        assert run.stage_done(0, "train", "a") is not None


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-x", "a" * 65, "é", "a\0"])
def test_the_id_of_a_stage_is_a_safe_name(folder, name):
    with Run.open(folder) as run, pytest.raises(RecipeError) as caught:
        run.stage_folder(0, name)
    assert caught.value.code == "E-RECIPE-ID"
    assert caught.value.where == {"key": "stages[0].id"}


SETTINGS = {"seed": 7, "batch_tokens": 4096, "data": {"task": "a1b2"}, "versions": {"torch": "2.13"}, "processes": 1}


@pytest.mark.parametrize(
    ("change", "listed"),
    [
        ({"seed": 8}, "seed: 7 -> 8"),
        ({"batch_tokens": 2048}, "batch_tokens: 4096 -> 2048"),
        ({"data": {"task": "ffff"}}, "data.task: a1b2 -> ffff"),
        ({"versions": {"torch": "2.14"}}, "versions.torch: 2.13 -> 2.14"),
        ({"processes": 2}, "processes: 1 -> 2"),
        ({"new": None}, "new: (absent) -> null"),
    ],
)
def test_a_resume_with_other_settings_is_refused_with_the_difference(folder, change, listed):
    with Run.open(folder) as run:
        run.check_exactness(SETTINGS)
        run.stage_folder(0, "train")
        digest = run.exactness_digest
    with Run.open(folder) as run:
        run.check_exactness(SETTINGS)
        with pytest.raises(RecipeError) as caught:
            run.check_exactness({**SETTINGS, **change})
        assert caught.value.code == "E-RESUME-DIFFERENT"
        assert listed in caught.value.what
        assert "--fork" in caught.value.fix
        assert run.exactness_digest == digest
        assert not run.forked


def test_a_run_that_ended_before_it_measured_or_trained_anything_takes_other_settings(folder):
    """As when a setting was refused: the corrected command needs no other folder."""
    with Run.open(folder) as run:
        run.check_exactness(SETTINGS)
    with Run.open(folder) as run:
        run.check_exactness({**SETTINGS, "seed": 8})
        assert not run.forked
        run.metric(1, loss=2.0)
    with Run.open(folder) as run, pytest.raises(RecipeError, match="seed: 8 -> 7"):
        run.check_exactness(SETTINGS)


def test_a_fork_takes_the_new_settings_and_says_so(folder):
    with Run.open(folder, fork=True) as run:
        run.check_exactness(SETTINGS)
        run.stage_folder(0, "train")
        assert not run.forked
    with Run.open(folder, fork=True) as run:
        run.check_exactness({**SETTINGS, "seed": 8})
        assert run.forked
        assert run.events()[-1]["differences"] == [["seed", 7, 8]]
    with Run.open(folder) as run:
        run.check_exactness({**SETTINGS, "seed": 8})


def test_the_exactness_set_is_compared_as_plain_data(folder):
    with Run.open(folder) as run:
        run.check_exactness({"shares": (0.98, 0.02), "path": Path("a/b")})
        run.check_exactness({"path": "a/b", "shares": [0.98, 0.02]})


def test_a_damaged_exactness_set_is_told(folder):
    with Run.open(folder) as run:
        run.check_exactness(SETTINGS)
        (folder / "exactness.json").write_text("{")
        with pytest.raises(ModelError) as caught:
            run.check_exactness(SETTINGS)
    assert caught.value.code == "E-RUN-DAMAGED"


def test_a_folder_of_a_newer_version_is_left_alone(folder):
    Run.open(folder).close()
    (folder / "state.json").write_text('{"schema": 99, "state": "done"}')
    with pytest.raises(ModelError, match="version 99; this one reads up to 1") as caught:
        Run.open(folder)
    assert caught.value.code == "E-RUN-SCHEMA"
    (folder / "state.json").write_text('{"schema": 1, "state": "done"}')
    with Run.open(folder) as run:
        assert run.state == "done"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"state": 3}', '{"schema": "x"}'])
def test_an_unreadable_state_is_taken_for_a_death(folder, text):
    Run.open(folder).close()
    (folder / "state.json").write_text(text)
    with Run.open(folder) as run:
        assert run.state == "interrupted"


@pytest.mark.parametrize(
    "act",
    [
        lambda run: run.enter("checking"),
        lambda run: run.event("x"),
        lambda run: run.metric(1, loss=1.0),
        lambda run: run.write_recipe({"a": 1}),
        lambda run: run.write_manifest({"a": 1}),
        lambda run: run.write_items("base", []),
        lambda run: run.check_exactness({"a": 1}),
        lambda run: run.stage_folder(0, "x"),
    ],
)
def test_a_full_disk_is_told_wherever_it_is_met(folder, act):
    with Run.open(folder) as run:
        with watching(failing_at(0, OSError(errno.ENOSPC, "x"))), pytest.raises(MachineError) as caught:
            act(run)
        assert caught.value.code == "E-RUN-DISK"


def test_signals_ask_the_run_to_stop(folder):
    with Run.open(folder) as run:
        with run.signals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(1)
        assert run.stop_requested.is_set()
        assert run.stop_requested.signal == "SIGTERM"


def test_recipe_and_manifest_can_be_read_back(folder):
    import yaml

    recipe = {"name": "试", "stages": [{"name": "train", "lr": 2e-4, "shares": (0.5, 0.5)}], "path": Path("a/b")}
    with Run.open(folder) as run:
        run.write_recipe(recipe)
        run.write_manifest({"versions": {"torch": "2.13"}})
    read = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    assert read == {**recipe, "stages": [{"name": "train", "lr": 2e-4, "shares": [0.5, 0.5]}], "path": "a/b"}
    assert "试" in (folder / "recipe.yaml").read_text(encoding="utf-8")
    assert json.loads((folder / "manifest.json").read_text()) == {"versions": {"torch": "2.13"}}


def scores(value: float) -> list[Score]:
    items = (
        Item("1", "capitals", 1.0, cluster="d1", prompt="France?", gold="Paris", prediction="Paris", gold_logprob=-0.1),
        Item("2", "capitals", value, cluster="d1", prompt="意大利?", gold="罗马", prediction="\u2028"),
    )
    books = (Item("b", "books", 812.5, size=600.0),)
    return [
        Score("capitals", "accuracy", "accuracy", value, True, 2, 0.1, chance=0.25, items=items),
        Score("capitals", "target", "token_f1", 0.75, True, 1, 0.0, items=items[:1]),
        Score("books", "corpus", "bits_per_byte", 812.5 / 600, False, 1, math.nan, items=books),
        Score("drift", "drift", "kl_to_base", 0.01, False, 40, 0.001),
    ]


def test_scores_and_their_items_are_read_back_per_checkpoint(folder):
    with Run.open(folder) as run:
        assert run.read_items("base") == []
        run.write_items("base", scores(0.0))
        run.write_items("adapted", scores(1.0))
        run.write_items("base", scores(0.5))
    with Run.open(folder) as run:
        for label, value in (("base", 0.5), ("adapted", 1.0)):
            read = run.read_items(label)
            assert read[:2] == scores(value)[:2]
            assert read[2].items == scores(value)[2].items
            assert math.isnan(read[2].standard_error)
            assert read[3] == scores(value)[3]
    rows = [json.loads(line) for line in gzip.decompress((folder / "items.jsonl.gz").read_bytes()).split(b"\n")[:-1]]
    assert {
        "id",
        "task",
        "checkpoint",
        "cluster",
        "prompt",
        "gold",
        "prediction",
        "score",
        "gold_logprob",
        "seed",
    } <= set(rows[0])
    assert {row["checkpoint"] for row in rows} == {"base", "adapted"}


def test_damaged_items_are_measured_again(folder):
    with Run.open(folder) as run:
        run.write_items("base", scores(0.0))
        data = (folder / "items.jsonl.gz").read_bytes()
        (folder / "items.jsonl.gz").write_bytes(data[: len(data) // 2])
        assert run.read_items("base") == []
        run.write_items("base", scores(0.0))
        assert run.read_items("base")[0] == scores(0.0)[0]
        (folder / "scores.json").write_text("{")
        assert run.read_items("base") == []
