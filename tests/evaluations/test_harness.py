"""Suites with harness tasks: what a file may say, what is missing is named, and scores equal to counting by hand."""

from __future__ import annotations

import importlib.util
import json

import pytest
import yaml

from keeptune.core.errors import MissingDependency, RecipeError
from keeptune.data.suite_files import read_suite
from keeptune.evaluations.harness import Harness
from keeptune.recipes.measuring import suite_of
from keeptune.stages._pairing import pair_up
from tests.evaluations.tiny_subject import BASE, context, slow_log_likelihood, tiny, tokenizer

INSTALLED = importlib.util.find_spec("lm_eval") is not None
ROWS = [{"question": f"Is {i} even?", "options": ["yes", "no"], "right": i % 2} for i in range(6)]
TASK = {
    "task": "parity",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "parity.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "{{right}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "parity.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def write(text=None, **changes):
        (tmp_path / "parity.yaml").write_text(text or yaml.safe_dump({**TASK, **changes}))
        tasks = [{"name": "parity", "file": "parity.yaml", "kind": "harness"}]
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
        return read_suite(tmp_path / "suite.yaml")

    return write


def test_data_files_are_found_beside_the_task_and_belong_to_its_digest(suite, tmp_path):
    first = suite()
    config = json.loads(first.harness[0].task)
    assert config["dataset_kwargs"]["data_files"]["test"] == str(tmp_path / "parity.jsonl")
    (tmp_path / "parity.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert read_suite(tmp_path / "suite.yaml").digest() != first.digest()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("task: x\ndoc_to_text: !function evil.run\n", "code to run"),
        ("task: x\ninclude: other.yaml\n", "includes another"),
        ("- 1\n", "is a mapping"),
        ("{", "not YAML"),
    ],
)
def test_a_task_file_that_runs_code_or_is_no_task_is_refused(text, says, suite):
    with pytest.raises(RecipeError, match=says) as refused:
        suite(text)
    assert refused.value.code == "E-SUITE-HARNESS"


@pytest.mark.skipif(INSTALLED, reason="lm-eval is installed")
def test_a_missing_harness_is_named_with_the_line_that_adds_it(suite):
    with pytest.raises(MissingDependency, match="lm-eval") as missing:
        Harness().measure(BASE, context(suite=suite()))
    assert "keeptune[eval]" in str(missing.value.fix)


@pytest.mark.skipif(not INSTALLED, reason="needs lm-eval: make test-extras")
def test_every_item_is_the_choice_of_a_slow_loop_and_pairs_with_itself(suite):
    asked = context(suite=suite())
    (score,) = Harness().measure(BASE, asked)
    model = tiny()
    for item, row in zip(score.items, ROWS, strict=True):
        values = []
        for option in row["options"]:
            before, whole = (
                tokenizer()(text)["input_ids"] for text in (row["question"], f"{row['question']} {option}")
            )
            values.append(slow_log_likelihood(model, whole, len(before)))
        assert item.score == float(values.index(max(values)) == row["right"])
        assert item.gold_logprob == pytest.approx(values[row["right"]], abs=1e-4)
        assert item.gold == row["options"][row["right"]]
    assert (score.chance, score.kind, score.metric) == (0.5, "accuracy", "acc")
    (pair,) = pair_up([score], Harness().measure(BASE, asked))
    assert pair.identical


@pytest.mark.skipif(not INSTALLED, reason="needs lm-eval: make test-extras")
def test_an_unknown_task_or_metric_is_refused_in_words(suite, tmp_path):
    (tmp_path / "suite.yaml").write_text(
        yaml.safe_dump({"tasks": [{"name": "a", "file": "no_such", "kind": "harness"}]})
    )
    with pytest.raises(RecipeError, match="could not ask"):
        Harness().measure(BASE, context(suite=read_suite(tmp_path / "suite.yaml")))
    with pytest.raises(RecipeError, match="no metric"):
        Harness().measure(BASE, context(suite=suite(metric_list=[{"metric": "acc", "aggregation": "median"}])))


@pytest.mark.parametrize("name", ["t1", "t2"])
def test_the_suites_that_come_along_name_tasks_with_their_metrics(name):
    found = suite_of(name, None)
    assert len(found.harness) >= 6
    assert all(task.metric and not task.task.startswith("{") for task in found.harness)
    if INSTALLED:
        from lm_eval.tasks import TaskManager

        known = set(TaskManager().all_tasks)
        assert {task.task for task in found.harness} <= known
