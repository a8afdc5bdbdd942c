"""The data of the study of instructions: pocket was trained on nothing that is asked; held-out kinds stand alone."""

from __future__ import annotations

import pytest

from benchmarks import instructions
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.sources import read_sources
from keeptune.studies._instruction_wordings import read_plan
from scripts.pocket import corpus
from tests.benchmarks.gz_rows import gz_rows

DIALOGUE = "#Person1#: Hello.\n#Person2#: Hi, who is it?\n#Person1#: Me.\n#Person2#: Come in.\n#Person1#: Thanks."


@pytest.fixture
def data(tmp_path):
    def write(name, rows):
        gz_rows(tmp_path / "data" / f"{name}.jsonl.gz", rows)

    def asked(stem, count, **more):
        return [{"instruction": f"{stem} {i}", "input": "", "output": f"{i}", **more} for i in range(count)]

    write("instructions/alpaca_9k_random", [*asked("Generate", 30), *asked("Name", 30), *asked("x" * 400, 1)])
    write("instructions/lima", [*asked("Say", 5, history=[]), *asked("And", 5, history=[["a", "b"]])])
    rated = [*asked("Chosen", 300, source_file="alpagasus dolly"), *asked("Other", 300, source_file="sdft random")]
    write("instructions/dolly_4k", rated)
    talks = [{"dialogue": DIALOGUE}, {"dialogue": "#Person2#: Hello.\n#Person1#: Hi."}]
    write("summarization/dialogsum_test", talks)
    return tmp_path / "data"


def test_the_recipes_read_their_files_and_ask_only_what_pocket_was_not_taught(data, tmp_path):
    instructions.prepare(data, tmp_path / "study", quick=True)
    rows, quantity, quality = (
        read_sources(load_recipe(str(tmp_path / "study" / f"{name}.yaml")), tmp_path / "study")
        for name in instructions.PARTS
    )
    assert quantity["task"].train == rows["task"].train
    assert len(rows["task"].train) + len(rows["task"].test) == 60
    assert {row.messages[0].content.split()[0] for row in rows["narrow"].train} == {"Generate"}
    assert len(rows["outside"].train) == 5
    test, train = quality["task"].test, quality["task"].train
    assert test
    assert all(corpus.held_out(row.messages[0].content) for row in test)
    assert not any(corpus.held_out(row.messages[0].content) for row in (*train, *quality["rejected"].train))
    assert not [source for source in corpus.SOURCES if "alpaca" in source.path or "lima" in source.path]


def test_dialogues_alternate_and_end_with_an_answer(data):
    (talk,) = instructions.dialogues(data)
    assert [turn["role"] for turn in talk["messages"]] == ["user", "assistant"] * 2
    assert talk["messages"][-1]["content"] == "Come in."


def test_no_task_of_a_held_out_kind_is_trained_and_pocket_was_taught_none_of_the_plan(data, tmp_path):
    instructions.prepare(data, tmp_path / "study", quick=True)
    plan = read_plan(tmp_path / "study" / "plan.yaml")
    files = {task.path.rsplit("/data/", 1)[1] for task in plan.tasks.values()}
    assert not files & {source.path for source in corpus.SOURCES}
    trained = {name for name, task in plan.tasks.items() if task.kind not in plan.hold_out}
    assert trained == {"topics", "questions", "yes_no", "senses", "problems", "summaries"}
    assert not any("rte" in task.path or "mnli" in task.path for task in plan.tasks.values())


def test_the_page_has_every_study():
    text = instructions.page(
        {"rows": {"text": "A table.\n\npage  x"}, "quality": {"text": "Another.\n\nNot asked:\n\n- z\n\npage  y"}}
    )
    assert "## Quality\n\nAnother.\n" in text
    assert "page  " not in text
    assert "Not asked" not in text
