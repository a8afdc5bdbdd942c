"""The command that comes next is the one that does what was shown: with its settings, and as a shell reads it."""

from __future__ import annotations

import shlex

import pytest

from keeptune.recipes import plan as planner
from keeptune.recipes.check import check_recipe
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.run import finished, run_recipe
from tests.cli.test_bad_inputs import GOOD, RECIPE

SETTINGS = ["stages[0].method={name: lora, rank: 2}", "seed=9"]
NAME = "my recipe.yaml"


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(planner, "product_rate", lambda device, dtype: 1e11)
    (tmp_path / NAME).write_text(RECIPE)
    (tmp_path / "task.jsonl").write_text(GOOD * 3)
    return tmp_path


@pytest.mark.parametrize(
    "shown",
    [
        lambda: check_recipe(NAME, SETTINGS, quiet=True)[0]["text"],
        pytest.param(lambda: planner.plan_recipe(NAME, SETTINGS)["text"], marks=pytest.mark.slow),
    ],
    ids=["check", "plan"],
)
def test_what_was_looked_at_is_what_will_run(work, shown):
    last = shown().splitlines()[-1].removeprefix("Next: ")
    program, command, name, *options = shlex.split(last)
    assert (program, command, name) == ("keeptune", "run", NAME)
    assert options[::2] == ["--set", "--set"]
    assert load_recipe(name, options[1::2]) == load_recipe(NAME, SETTINGS)


def test_the_command_after_a_run_finds_its_folder(work, monkeypatch):
    monkeypatch.setattr("sys.argv", ["keeptune", "run", NAME, "--set", SETTINGS[0]])
    run_recipe(NAME, work / "a run", SETTINGS, quiet=True)
    certificate = {"verdict": "PASS", "drift": {}, "target": None, "retention": None}
    monkeypatch.setattr("keeptune.report.sentence.verdict_sentence", lambda certificate: "")
    assert shlex.split(finished(work / "a run", certificate)["text"].splitlines()[-1])[1:] == [
        "keeptune", "chat", str(work / "a run")
    ]  # fmt: skip
    told = (work / "a run" / "manifest.json").read_text()
    assert "keeptune run 'my recipe.yaml' --set 'stages[0].method={name: lora, rank: 2}'" in told
