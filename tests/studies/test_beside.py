"""Runs beside each other end as those one after the other do, and what stops or fails is told."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from keeptune.core.errors import Interrupted, PlanError, RecipeError
from keeptune.core.run import Run
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.workshop import Workshop
from keeptune.studies import Work
from keeptune.studies import _beside as beside
from keeptune.studies._session import run_study
from tests.recipes.test_shelf import suite  # noqa: F401 (a fixture)
from tests.recipes.test_shelf_steps import model, small  # noqa: F401 (a fixture)

FEW = ["recipes=[sft, lora]", "rates=[1]", "tokens=512"]


@pytest.fixture
def work(model, tmp_path):  # noqa: F811
    with Run.open(tmp_path / "study") as run:
        yield Work(run, load_recipe("sft", small("sft", model)), None, Workshop())


def test_processes_find_what_one_finds(model, suite, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = [*small("sft", model), f"proof.suite={suite}"]
    alone = run_study("compare", "sft", tmp_path / "alone", settings, FEW, quiet=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    both = run_study("compare", "sft", tmp_path / "both", settings, [*FEW, "jobs=2"], quiet=True)
    for one, other in zip(alone["cells"], both["cells"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert alone["methods"] == both["methods"]


def test_every_run_is_taken_once_by_some_process(work, tmp_path):
    log = tmp_path / "log"

    def lines():
        return [line.split() for line in log.read_text().splitlines()]

    def run(number):
        with log.open("a") as file:
            file.write(f"{number} {os.getpid()}\n")
        for _ in range(1000):  # nobody goes on before three have begun
            if len({process for _, process in lines()}) == 3:
                return
            time.sleep(0.02)

    beside.run_beside([lambda number=number: run(number) for number in range(12)], 3, work)
    assert sorted(int(number) for number, _ in lines()) == list(range(12))
    assert len({process for _, process in lines()} - {str(os.getpid())}) == 3


def test_a_run_that_fails_leaves_the_others_and_is_told_when_it_is_read(model, suite, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(model.parent / "cache"))
    from keeptune.studies._bench import trained as train

    def failing(work, recipe, *rest):
        if recipe.name == "lora":
            raise RecipeError("no.", code="E-RECIPE-DATA")
        return train(work, recipe, *rest)

    monkeypatch.setattr("keeptune.studies._bench.trained", failing)
    settings = [*small("sft", model), f"proof.suite={suite}"]
    with pytest.raises(RecipeError, match="no"):
        run_study("compare", "sft", tmp_path / "study", settings, [*FEW, "jobs=2"], quiet=True)
    done = {path.parent.name for path in (tmp_path / "study" / "arms").glob("*/result.json")}
    assert done == {"base", "sft-x1-7"}


def test_a_signal_reaches_the_processes_and_ends_the_study(work, tmp_path):
    def run(number):
        (tmp_path / f"begun-{number}").touch()
        if work.stop.wait(30):
            (tmp_path / f"stopped-{number}").touch()
            raise Interrupted("stopped.", code="E-RUN-INTERRUPTED")

    def ask():
        while not ((tmp_path / "begun-0").exists() and (tmp_path / "begun-1").exists()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    with work.run.signals():
        asking = threading.Thread(target=ask)
        asking.start()
        with pytest.raises(Interrupted):
            beside.run_beside([lambda number=number: run(number) for number in range(4)], 2, work)
        asking.join()
    assert {path.name for path in tmp_path.glob("stopped-*")} == {"stopped-0", "stopped-1"}
    assert not (tmp_path / "begun-2").exists()


def test_a_base_that_uses_all_cores_is_refused_by_name(work, monkeypatch):
    monkeypatch.setattr(beside, "SMALL", 10)
    with pytest.raises(PlanError) as caught:
        beside.run_beside([lambda: None], 2, work)
    assert caught.value.code == "E-STUDY-JOBS"
    assert caught.value.where == {"key": "jobs"}
