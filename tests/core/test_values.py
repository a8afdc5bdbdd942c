"""Errors, Example, Checkpoint, Score, Usage; and what importing core does not do."""

from __future__ import annotations

import doctest
import importlib
import json
import math
import mmap
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keeptune.core
from keeptune.core import errors
from keeptune.core.checkpoint import AdapterRef, Checkpoint
from keeptune.core.errors import KeeptuneError, MissingDependency, RecipeError, did_you_mean
from keeptune.core.example import Example, Message
from keeptune.core.score import Item, Score
from keeptune.core.usage import measured

MODULES = sorted(f"keeptune.core.{module.name}" for module in pkgutil.iter_modules(keeptune.core.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_importing_all_of_core_leaves_the_heavy_packages_unloaded():
    heavy = ("torch", "transformers", "numpy", "scipy", "datasets", "peft", "accelerate", "yaml")
    program = f"import {', '.join(MODULES)}, sys; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_printed_tree_of_errors_is_the_tree_of_classes():
    printed = {}
    parents: list[str] = []
    for indent, name, code in re.findall(r"^( {4,})(\w+) *(\d+)?", errors.__doc__, flags=re.M):
        depth = len(indent) // 2 - 2
        parents[depth:] = [name]
        printed[name] = (parents[depth - 1] if depth else "Exception", int(code) if code else None)
    classes = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, KeeptuneError)
    }
    assert set(printed) == set(classes)
    for name, (parent, code) in printed.items():
        assert classes[name].__base__.__name__ == parent
        assert code is None or classes[name].exit_code == code


def test_an_error_says_where_what_why_and_what_to_do():
    error = errors.DataError(
        "'output' is empty.",
        code="E-DATA-EMPTY",
        where={"file": Path("task.jsonl"), "line": 812, "column": None, "key": "output"},
        why="Training needs an answer.",
        fix="Delete the row.",
    )
    assert str(error) == "task.jsonl line 812, output: 'output' is empty. Training needs an answer. Delete the row."
    assert json.loads(json.dumps(error.to_dict())) == {
        "code": "E-DATA-EMPTY",
        "where": {"file": "task.jsonl", "line": 812, "key": "output"},
        "what": "'output' is empty.",
        "why": "Training needs an answer.",
        "fix": "Delete the row.",
    }


def test_several_problems_are_one_error_that_lists_them():
    one, other = (RecipeError(f"{name} is wrong.", code="E-CONFIG-VALUE", where={"key": name}) for name in "ab")
    assert RecipeError.together([one]) is one
    both = RecipeError.together([one, other])
    assert str(both) == "2 problems:\n  - a: a is wrong.\n  - b: b is wrong."
    assert [problem["where"]["key"] for problem in both.to_dict()["problems"]] == ["a", "b"]


def test_a_missing_package_comes_with_the_line_that_installs_it():
    error = MissingDependency("trl", extra="rl", needed_for="The stage 'prefer'")
    assert (error.exit_code, error.code) == (4, "E-ENV-MISSING")
    assert "pip install 'keeptune[rl]'" in error.fix


def test_near_names_are_proposed_and_at_most_eight_are_listed():
    assert did_you_mean("loar", ["lora", "full"]) == "Did you mean 'lora'? Known: full, lora."
    assert did_you_mean("xyz", ["lora"]) == "Known: lora."
    assert did_you_mean("x", []) == ""
    assert did_you_mean("q", [f"n{i}" for i in range(9)]).endswith("n7, ...")


def test_every_error_code_is_a_literal_of_one_form():
    for path in Path(keeptune.core.__path__[0]).glob("*.py"):
        for code in re.findall(r"code=\"([^\"]+)\"", path.read_text()):
            assert re.fullmatch(r"E-[A-Z]+-[A-Z]+", code), (path.name, code)


def test_the_target_is_the_last_answer_and_the_prompt_what_precedes_it():
    turns = tuple(Message(role, role[0] + str(i)) for i, role in enumerate(["system", "user", "assistant"] * 2))
    example = Example("1", turns)
    assert example.target == "a5"
    assert example.prompt == turns[:5]
    assert Example("2", text="whole").target == "whole"
    assert Example("3", turns[:2]).prompt == turns[:2]
    assert Example("3", turns[:2]).target == ""


def test_what_a_template_renders_beside_the_text_never_replaces_it():
    message = Message("assistant", "yes", {"tool_calls": [1], "content": "no"})
    assert message.to_dict() == {"tool_calls": [1], "role": "assistant", "content": "yes"}


@pytest.mark.parametrize("base", ["pocket", "org/name", "./models/x", "/elsewhere/model"])
def test_a_checkpoint_survives_plain_data(tmp_path, base):
    inside = tmp_path / "stages" / "0-train" / "step-4"
    inside.mkdir(parents=True)
    adapters = (AdapterRef("a", inside), AdapterRef("b", Path("/elsewhere/b"), "task"))
    checkpoint = Checkpoint(base, "main", "float32", adapters)
    plain = json.loads(json.dumps(checkpoint.to_dict(relative_to=tmp_path)))
    assert plain["adapters"][0]["path"] == "stages/0-train/step-4"
    assert Checkpoint.from_dict(plain, relative_to=tmp_path) == checkpoint
    assert Checkpoint.from_dict(checkpoint.to_dict()) == checkpoint
    assert checkpoint.deployment == "routed"
    assert Checkpoint("pocket", adapters=adapters[:1]).deployment == "always_on"


def test_a_base_inside_the_run_moves_with_it(tmp_path):
    (tmp_path / "stages" / "full").mkdir(parents=True)
    plain = Checkpoint(str(tmp_path / "stages" / "full")).to_dict(relative_to=tmp_path)
    assert plain["base"] == "stages/full"
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert Checkpoint.from_dict(plain, relative_to=moved).base == str(moved / "stages" / "full")


@pytest.mark.parametrize("score", [0.0, 1.0, 812.25, math.inf])
def test_an_item_survives_plain_data(score):
    item = Item("1", "t", score, "c", "p", "g", "x", -0.5, 3.0, 7)
    plain = json.loads(json.dumps({**item.to_dict(), "score": str(score), "checkpoint": "base"}))
    assert Item.from_dict(plain) == item
    assert Item.from_dict({"id": "1", "task": "t", "score": 1, "gold_logprob": None}) == Item("1", "t", 1.0)


def test_a_score_is_binary_when_every_item_is_right_or_wrong():
    def score(*values: float) -> Score:
        return Score("t", "accuracy", "m", 0, True, 1, 0, items=tuple(Item("i", "t", value) for value in values))

    assert score(0.0, 1.0).binary
    assert not score(0.0, 0.5).binary


def test_time_and_peak_memory_of_a_block_are_measured():
    with measured() as small:
        pass
    # Pages of its own: the heap may reuse what earlier tests freed.
    with measured() as large, mmap.mmap(-1, 64 << 20) as block:
        for page in range(0, len(block), 4096):
            block[page] = 1
    assert 0 <= small.seconds < 1
    assert large.peak_bytes - small.peak_bytes > 50 << 20
    assert small.peak_device_bytes == 0
