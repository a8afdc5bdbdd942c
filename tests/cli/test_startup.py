"""The command line starts at once and never shows a traceback for a user's mistake."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

QUICK = [["--help"], ["plan", "--help"], ["list"], ["list", "methods", "--json"], ["show", "sft"]]
HEAVY = {"torch", "transformers", "datasets", "scipy", "peft"}
"""What takes seconds to import, and what nobody needs who asks what there is or wrote a word wrong."""


def processor_seconds() -> float:
    """Processor time of finished children: what a start costs, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def keeptune(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keeptune.cli", *arguments], capture_output=True, text=True, check=False
    )


def without_heavy(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command, which fails where it has imported one of the heavy modules."""
    program = (
        "import sys; sys.argv=['keeptune',*sys.argv[1:]]\n"
        "from keeptune.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)"
    )
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_a_quick_command_needs_neither_torch_nor_half_a_second(arguments):
    fastest = 9.0
    for _ in range(3):
        before = processor_seconds()
        result = without_heavy(*arguments)
        fastest = min(fastest, processor_seconds() - before)
        assert result.returncode == 0, result.stderr
    assert fastest < 0.5


RECIPE = """\
name: first
model: {{name: {model}}}
data:
  task: {{format: prompt_completion, path: {path}, prompt: text, completion: label}}
stages:
  - {{name: train, method: {method}, data: task, losses: [next_token, kl_to_base], epochs: {epochs}}}
  - {{name: evaluate, evaluations: [retention, drift]}}
  - {{name: prove}}
proof: {{target: {{data: task}}, suite: embedded}}
"""
RIGHT = {"model": "pocket", "method": "lora", "epochs": "2", "path": "rows.jsonl"}
WRONG = {
    "a key that no method has": ({"method": "{name: lora, rnak: 8}"}, "E-CONFIG-KEY"),
    "a method that is not there": ({"method": "loar"}, "E-RECIPE-NAME"),
    "a word for a number": ({"epochs": "two"}, "E-CONFIG-VALUE"),
    "no type of PEFT's": ({"method": "peft"}, "E-CONFIG-VALUE"),
}


@pytest.mark.parametrize("command", ["plan", "run", "check"])
@pytest.mark.parametrize("fault", WRONG)
def test_a_fault_of_the_recipe_is_told_before_anything_heavy_is_imported(tmp_path, command, fault):
    settings, code = WRONG[fault]
    text = RECIPE.format(**{**RIGHT, **settings})
    (tmp_path / "wrong.yaml").write_text(text, encoding="utf-8")
    result = without_heavy(command, str(tmp_path / "wrong.yaml"))
    assert result.returncode == 2, result.stderr
    assert code in result.stderr


@pytest.mark.parametrize("command", ["plan", "run", "check"])
@pytest.mark.parametrize(
    ("settings", "status", "code", "said"),
    [
        ({"path": "row.jsonl"}, 3, "E-DATA-MISSING", "Did you mean 'rows.jsonl'?"),
        ({"path": "nowhere/rows.jsonl"}, 3, "E-DATA-MISSING", "There is no folder"),
        ({"model": "./nowhere"}, 4, "E-MODEL-MISSING", "Check the path"),
    ],
    ids=["a file of another name", "a folder of another name", "no model"],
)
def test_what_is_not_there_is_told_before_anything_heavy_is_imported(tmp_path, command, settings, status, code, said):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n', encoding="utf-8")
    (tmp_path / "wrong.yaml").write_text(RECIPE.format(**{**RIGHT, **settings}), encoding="utf-8")
    result = without_heavy(command, str(tmp_path / "wrong.yaml"))
    assert result.returncode == status, result.stderr
    assert code in result.stderr
    assert said in result.stderr


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("row.jsonl", "E-DATA-MISSING"),
        ("odd.jsonl", "E-DATA-GUESS"),
        ("rows.bin", "E-DATA-SUFFIX"),
        ("rows.jsonl", "E-RECIPE"),
    ],
    ids=["no file", "no format", "no reader", "a recipe is there already"],
)
def test_init_refuses_before_anything_heavy_is_imported(tmp_path, data, code):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n' * 3, encoding="utf-8")
    (tmp_path / "odd.jsonl").write_text('{"x": 1}\n' * 3, encoding="utf-8")
    (tmp_path / "rows.bin").write_bytes(b"x")
    output = tmp_path / "recipe.yaml"
    if data == "rows.jsonl":
        output.write_text("name: mine\n", encoding="utf-8")
    result = without_heavy("init", str(tmp_path / data), "--output", str(output))
    assert result.returncode in (2, 3), result.stderr
    assert result.stderr.startswith(code)


def test_every_recipe_that_comes_with_keeptune_is_read_without_torch():
    program = (
        "import sys\n"
        "from keeptune.recipes.recipe import FOLDER, load_recipe\n"
        "names = [file.stem for file in FOLDER.glob('*.yaml') if file.stem != 'demo']\n"
        "assert len(names) > 30\n"
        "for name in names:\n    load_recipe(name)\n"
        f"assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_member_that_a_recipe_can_name_is_found_without_torch():
    program = (
        "import sys\n"
        "from keeptune.data.formats import Format\n"
        "from keeptune.evaluations import Evaluation\n"
        "from keeptune.losses import Loss\n"
        "from keeptune.methods import Method\n"
        "from keeptune.stages import Stage\n"
        "from keeptune.stages.optimizers import Optimizer\n"
        "for shelf in (Format, Evaluation, Loss, Method, Stage, Optimizer):\n"
        "    for name in shelf.names():\n"
        "        shelf.find(name)\n"
        f"        heavy = {HEAVY} & set(sys.modules)\n"
        "        assert not heavy, f'{shelf.__name__} {name}: {heavy}'"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_an_unknown_command_is_answered_in_one_line():
    result = keeptune("trian")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "E-USAGE" in result.stderr


def test_with_json_an_error_is_exactly_one_object_on_stdout():
    result = keeptune("list", "metods", "--json")
    assert result.returncode == 2
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "E-USAGE"
    assert "methods" in error["fix"]


def test_show_names_the_nearest_member():
    result = keeptune("show", "sftt")
    assert result.returncode == 2
    assert "Did you mean 'sft'?" in result.stderr
