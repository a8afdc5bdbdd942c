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


OUTPUTS = {
    "init": ["init", "task.jsonl", "--output"],
    "check": ["check", "recipe.yaml", "--html"],
    "mix": ["data", "mix", "recipe.yaml", "--output"],
    "select": ["data", "select", "task.jsonl", "--by", "random", "--output"],
    "dedupe": ["data", "dedupe", "task.jsonl", "--output"],
    "curate": ["data", "curate", "task.jsonl", "--output"],
    "build": ["data", "build", "plan.yaml", "--output"],
    "evolve": ["data", "evolve", "task.jsonl", "--output"],
    "compare": ["compare", "run", "--output"],
}
"""Commands that write one file where the user says."""


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize(("place", "code"), [("task.jsonl/made", "E-OUTPUT-PLACE"), ("folder", "E-USAGE-OUTPUT")])
def test_a_file_that_cannot_be_written_is_refused_before_any_work(command, place, code, work, monkeypatch, capsys):
    (work / "folder").mkdir()
    status, printed = answer(monkeypatch, capsys, *OUTPUTS[command], place)
    assert (status, printed["error"]["code"]) == (4 if code == "E-OUTPUT-PLACE" else 2, code)
    assert printed["error"]["where"]["file"] == place
    assert printed["error"]["fix"]


def test_a_value_is_shown_as_a_recipe_writes_it(work, monkeypatch, capsys):
    _, printed = answer(monkeypatch, capsys, "check", "recipe.yaml", "--set", "model.name=null")
    assert printed["error"]["where"]["key"] == "model.name"
    assert "(given: null)" in printed["error"]["what"]


def test_the_folder_of_a_new_file_is_made(work, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["keeptune", "init", "task.jsonl", "--output", "new/recipes/task.yaml"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert [path.name for path in (work / "new" / "recipes").iterdir()] == ["task.yaml"]


def test_a_folder_that_is_no_run_and_one_that_is_not_there_are_told_apart(work, monkeypatch, capsys):
    (work / "empty").mkdir()
    for command in ("chat", "compare"):
        for folder, code in (("empty", "E-RUN-UNFINISHED"), ("nowhere", "E-RUN-MISSING")):
            status, printed = answer(monkeypatch, capsys, command, folder)
            assert (status, printed["error"]["code"], printed["error"]["where"]["file"]) == (4, code, folder)


def test_a_file_without_a_usable_row_is_refused_with_its_first_fault(work, monkeypatch, capsys):
    (work / "words.jsonl").write_text("hello\n")
    _, printed = answer(monkeypatch, capsys, "init", "words.jsonl", "--output", "words.yaml")
    assert printed["error"]["code"] == "E-DATA-NOROWS"
    assert "words.jsonl line 1" in printed["error"]["why"]


def test_a_recipe_for_a_model_that_is_not_at_hand_says_so(work, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["keeptune", "init", "task.jsonl", "--model", "nowhere", "--output", "new.yaml"])
    with pytest.raises(SystemExit):
        main()
    assert "not at hand yet: nowhere: there is no such model folder" in capsys.readouterr().out
    assert (work / "new.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--nope"], "No such option: --nope."), (["lis"], "No such command 'lis'. Did you mean 'list'?")],
)
def test_what_the_parser_complains_of_is_a_whole_sentence(arguments, said, monkeypatch, capsys):
    status, printed = answer(monkeypatch, capsys, *arguments)
    assert (status, printed["error"]["what"]) == (2, said)
