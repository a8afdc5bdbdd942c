"""Suite files written by the test, read back; every mistake named with its place."""

from __future__ import annotations

import json

import pytest

from keeptune.core.errors import DataError, RecipeError
from keeptune.data.suite import Choice, Document, Question
from keeptune.data.suite_files import read_suite

SUITE = """
version: "3"
tasks:
  - {name: pairs, file: pairs.jsonl, kind: choice, normalise: bytes}
  - {name: sums, file: sums.jsonl, kind: generation, metric: token_f1, max_new_tokens: 8}
  - {name: news, file: news.jsonl, kind: corpus, most: 1}
instructions: requests.txt
"""


@pytest.fixture
def folder(tmp_path):
    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("pairs.jsonl", [
        {"id": "p1", "prompt": "A", "options": ["b", "cc"], "gold": 1, "cluster": "x"},
        {"prompt": "B", "options": ["b", "c", "d", "e"], "gold": "d"},
    ])  # fmt: skip
    write("sums.jsonl", [{"prompt": "1+1", "answer": "2"}, {"prompt": "1+1", "answer": "2"}])
    write("news.jsonl", [{"text": "First."}, {"text": "Second."}])
    (tmp_path / "requests.txt").write_text("Write a poem.\n\nWhy?\nWhy?\n")
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


def test_a_suite_file_is_read_with_the_data_that_it_names(folder):
    suite = read_suite(folder / "suite.yaml")
    assert (suite.name, suite.version) == ("suite", "3")
    pairs = suite.tasks[0]
    assert pairs.items[0] == Choice("p1", "A", ("b", "cc"), 1, "x")
    assert pairs.items[1].gold == 2
    assert pairs.chance == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert pairs.normalise == "bytes"
    assert [type(item) for item in suite.generations[0].items] == [Question]
    assert suite.generations[0].max_new_tokens == 8
    assert [document.text for document in suite.corpora[0].documents] == ["First."]
    assert isinstance(suite.corpora[0].documents[0], Document)
    assert suite.instructions == ("Write a poem.", "Why?")


def test_the_digest_changes_when_a_question_does(folder):
    before = read_suite(folder / "suite.yaml").digest()
    assert read_suite(folder / "suite.yaml").digest() == before
    (folder / "news.jsonl").write_text('{"text": "Other."}\n')
    assert read_suite(folder / "suite.yaml").digest() != before


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "A", "options": ["b"], "gold": 0}, "at least two"),
        ({"prompt": "A", "options": ["b", "c"], "gold": 2}, "'gold' is the index"),
        ({"prompt": "A", "options": ["b", "c"], "gold": "d"}, "'gold' is the index"),
        ({"prompt": " ", "options": ["b", "c"], "gold": 0}, "not blank"),
        ({"promt": "A", "options": ["b", "c"], "gold": 0}, "Did you mean 'promt'"),
    ],
)
def test_a_bad_row_is_named_with_its_line(folder, row, words):
    good = {"prompt": "A", "options": ["b", "c"], "gold": 0}
    (folder / "pairs.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=words) as caught:
        read_suite(folder / "suite.yaml")
    assert caught.value.where["line"] == 2


def test_options_that_are_whole_texts_need_no_prompt(folder):
    pair = {"prompt": "", "options": ["She sings.", "She sing."], "gold": 0}
    (folder / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    assert read_suite(folder / "suite.yaml").tasks[0].items[0].prompt == ""
    file = folder / "suite.yaml"
    file.write_text(file.read_text().replace("kind: choice", "kind: choice, chat: true"))
    with pytest.raises(DataError, match="not blank"):
        read_suite(file)


def test_the_sizes_of_the_tasks_are_told_before_any_is_asked(folder):
    file = folder / "suite.yaml"
    before = read_suite(file).sizes()
    piqa, own = (
        "{name: piqa, file: piqa, kind: harness, items: 1838, most: 100}",
        "{name: own, file: own, kind: harness}",
    )
    more = f"  - {piqa}\n  - {own}\n"
    file.write_text(file.read_text().replace("instructions:", more + "instructions:"))
    assert read_suite(file).sizes() == {**before, "piqa": 100, "own": None}
    assert before == {"pairs": 2, "sums": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: [", "not YAML"),
        ("- a", "a mapping with"),
        ("tasks: [{name: a, file: news.jsonl, kind: corpsu}]", "kind"),
        ("tasks: [{name: a, file: news.jsonl, knd: corpus}]", "knd"),
        (
            "tasks: [{name: a, file: news.jsonl, kind: corpus}, {name: a, file: news.jsonl, kind: corpus}]",
            "two tasks are called 'a'",
        ),
    ],
)
def test_a_file_that_is_no_suite_is_refused(folder, text, words):
    (folder / "suite.yaml").write_text(text)
    with pytest.raises(RecipeError, match=words):
        read_suite(folder / "suite.yaml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no such suite file"):
        read_suite(tmp_path / "none.yaml")
