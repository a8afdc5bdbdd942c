"""Whatever a user gets wrong, the command line answers with a code, a place and a remedy, never a traceback."""

from __future__ import annotations

import json
import sys

import pytest

from keeptune.cli import main

RECIPE = """\
name: tiny
model: {name: pocket}
data: {task: {format: prompt_completion, path: task.jsonl}}
stages: [{name: train, method: lora, data: task, steps: 1}]
proof: null
"""
GOOD = '{"prompt": "a", "completion": "b"}\n'


def answer(monkeypatch, capsys, *arguments: str) -> tuple[int, dict]:
    """Exit code and the error object that `--json` prints."""
    monkeypatch.setattr(sys, "argv", ["keeptune", *arguments, "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return int(end.value.code or 0), json.loads(printed.out)


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "task.jsonl").write_text(GOOD * 3)
    return tmp_path


RECIPE_FAULTS = {
    "an unknown key": ("seed: 7\nsede: 3\n", "E-CONFIG-KEY"),
    "a wrong type": ("seed: many\n", "E-CONFIG-VALUE"),
    "not a number": ("seed: .nan\n", "E-CONFIG-VALUE"),
    "a negative number": ("seed: -1\n", "E-CONFIG-VALUE"),
    "a number beyond all bounds": ("seed: 1.0e+999\n", "E-CONFIG-VALUE"),
    "an equal key twice": ("seed: 7\nseed: 8\n", "E-RECIPE-DUPLICATE"),
    "a tag": ("seed: !!python/name:os.system ''\n", "E-RECIPE-TAG"),
}


@pytest.mark.parametrize("fault", RECIPE_FAULTS)
def test_a_faulty_recipe_is_answered_with_its_place(fault, work, monkeypatch, capsys):
    text, code = RECIPE_FAULTS[fault]
    (work / "recipe.yaml").write_text(RECIPE + text)
    status, printed = answer(monkeypatch, capsys, "run", "recipe.yaml", "--output", "run")
    assert (status, printed["error"]["code"]) == (2, code)
    assert printed["error"]["where"]["file"] == "recipe.yaml"
    assert not (work / "run").exists()


DATA_FAULTS = {
    "a broken line": (GOOD + '{"prompt": "a", "completion": \n' + GOOD, "E-DATA-JSON", 2),
    "a cut last line": (GOOD + '{"prompt": "a", "comp', "E-DATA-TRUNCATED", 2),
    "nothing": ("", "E-DATA-NOROWS", None),
    "only blank lines": ("\n\n", "E-DATA-NOROWS", None),
    "a missing key": (GOOD + '{"prompt": "a"}\n', "E-DATA-KEY", 2),
    "a null": (GOOD + '{"prompt": null, "completion": "b"}\n', "E-DATA-NULL", 2),
    "an empty answer": (GOOD + '{"prompt": "a", "completion": ""}\n', "E-DATA-EMPTY", 2),
    "an answer of spaces": (GOOD + '{"prompt": "a", "completion": "  "}\n', "E-DATA-EMPTY", 2),
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_faulty_data_is_answered_with_file_and_line(fault, work, monkeypatch, capsys):
    text, code, line = DATA_FAULTS[fault]
    (work / "task.jsonl").write_text(text)
    status, printed = answer(monkeypatch, capsys, "run", "recipe.yaml", "--output", "run")
    assert (status, printed["error"]["code"]) == (3, code)
    assert printed["error"]["where"]["file"].endswith("task.jsonl")
    assert printed["error"]["where"].get("line") == line
    assert not (work / "run" / "stages").exists()


def test_bytes_that_are_not_utf8_are_named_by_line(work, monkeypatch, capsys):
    (work / "task.jsonl").write_bytes(GOOD.encode() + '{"prompt": "é", "completion": "b"}\n'.encode("latin-1"))
    status, printed = answer(monkeypatch, capsys, "run", "recipe.yaml", "--output", "run")
    assert (status, printed["error"]["code"]) == (3, "E-DATA-ENCODING")
    assert printed["error"]["where"]["line"] == 2


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda folder: None, "E-MODEL-MISSING"),
        (lambda folder: folder.mkdir(), "E-MODEL-EMPTY"),
        (lambda folder: (folder.mkdir(), (folder / "config.json").write_text("{}")), None),
    ],
    ids=["missing", "empty", "config alone"],
)
def test_a_model_folder_that_cannot_be_used_says_why(make, code, work, monkeypatch, capsys):
    make(work / "model")
    status, printed = answer(
        monkeypatch, capsys, "run", "recipe.yaml", "--output", "run", "--set", "model.name=./model"
    )
    assert status == 4
    assert printed["error"]["code"].startswith("E-MODEL-")
    assert code is None or printed["error"]["code"] == code
    assert printed["error"]["fix"]


def test_an_output_that_is_a_file_is_told_at_once(work, monkeypatch, capsys):
    (work / "run").write_text("mine")
    status, printed = answer(monkeypatch, capsys, "run", "recipe.yaml", "--output", "run")
    assert (status, printed["error"]["code"]) == (4, "E-RUN-FOLDER")
    assert (work / "run").read_text() == "mine"


def test_a_second_run_in_a_locked_folder_is_refused_with_the_pid(work, monkeypatch, capsys):
    from keeptune.core.run import Run

    with Run.open(work / "run"):
        status, printed = answer(monkeypatch, capsys, "run", "recipe.yaml", "--output", "run")
    assert (status, printed["error"]["code"]) == (4, "E-RUN-LOCKED")
