"""The shelf's own promises: an arm is made once, again when what decides it changes, and a stopped study goes on."""

from __future__ import annotations

import json
import sys
import time
import types

import pytest

from keeptune.core.errors import Interrupted, RecipeError
from keeptune.core.run import Run
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.workshop import Workshop
from keeptune.studies import Study, Work
from keeptune.studies._session import run_study


def work(folder):
    return Work(Run.open(folder), load_recipe("sft"), None, Workshop())


def test_an_arm_is_made_once_and_again_when_what_decides_it_changes(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"score": len(made)}

    own = work(tmp_path / "study")
    first = own.once("a", {"rows": 3}, make)
    assert first["score"] == 1
    assert own.once("a", {"rows": 3}, make) == first
    own.run.close()
    again = work(tmp_path / "study")
    assert again.once("a", {"rows": 3}, make) == first
    assert again.once("b", {"rows": 3}, make)["score"] == 2
    assert again.once("a", {"rows": 4}, make)["score"] == 3
    again.run.close()


def test_an_arm_says_what_it_took_and_still_says_so_when_it_is_read(tmp_path):
    own = work(tmp_path / "study")
    slow = own.once("slow", 1, lambda: time.sleep(0.25) or {})
    assert slow["seconds"] == pytest.approx(0.3, abs=0.15)
    assert own.once("slow", 1, lambda: pytest.fail("made again")) == slow
    own.run.close()


class Counting(Study):
    """Three arms, of which the second fails once."""

    def conduct(self, work):
        found = [work.once(f"arm-{n}", n, lambda n=n: self._arm(n)) for n in range(3)]
        return {"scores": [one["n"] for one in found], "text": "done"}

    @staticmethod
    def _arm(n):
        CALLS.append(n)
        if n == 1 and CALLS.count(1) == 1:
            raise Interrupted("stopped.", code="E-RUN-INTERRUPTED")
        return {"n": n}


CALLS: list[int] = []


@pytest.fixture
def shelf(monkeypatch):
    module = types.ModuleType("counting_study.shelf")
    module.Counting = Counting
    monkeypatch.setattr(Counting, "__module__", "counting_study.shelf")
    monkeypatch.setitem(sys.modules, "counting_study", types.ModuleType("counting_study"))
    monkeypatch.setitem(sys.modules, "counting_study.shelf", module)
    return "counting_study.shelf"


def test_a_stopped_study_goes_on_where_it_stopped(tmp_path, shelf):
    CALLS.clear()
    with pytest.raises(Interrupted):
        run_study(shelf, "sft", tmp_path / "s", quiet=True)
    assert json.loads((tmp_path / "s" / "state.json").read_text())["state"] == "interrupted"
    result = run_study(shelf, "sft", tmp_path / "s", quiet=True)
    assert result["scores"] == [0, 1, 2]
    assert CALLS == [0, 1, 1, 2]
    assert json.loads((tmp_path / "s" / "study.json").read_text())["scores"] == [0, 1, 2]


def test_another_study_or_a_run_is_not_written_over(tmp_path, shelf):
    CALLS[:] = [1]
    run_study(shelf, "sft", tmp_path / "s", quiet=True)
    with pytest.raises(RecipeError, match="this folder holds the study 'counting_study") as refused:
        run_study("compare", "sft", tmp_path / "s", quiet=True)
    assert refused.value.code == "E-RESUME-DIFFERENT"
    assert json.loads((tmp_path / "s" / "state.json").read_text())["state"] == "done"
    with Run.open(tmp_path / "run") as run:
        run.check_exactness({"seed": 7})
    with pytest.raises(RecipeError, match="this folder holds a run or a proof"):
        run_study(shelf, "sft", tmp_path / "run", quiet=True)


def test_an_unknown_study_or_setting_is_refused_by_name(tmp_path, shelf):
    with pytest.raises(RecipeError, match="no study is called 'select'"):
        run_study("select", "sft", tmp_path / "s", quiet=True)
    with pytest.raises(RecipeError, match="'sheds' is not a setting"):
        run_study(shelf, "sft", tmp_path / "s", choices=["sheds=3"], quiet=True)
    assert not (tmp_path / "s").exists()
