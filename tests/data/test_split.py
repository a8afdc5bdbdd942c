"""Splits that hold still, duplicates that do not straddle, leaks that are found, and guesses."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.decontaminate import duplicates, overlap
from keeptune.data.guess import guess_format
from keeptune.data.label_set import label_set
from keeptune.data.normalise import WORD, words
from keeptune.data.split import split, within


def ask(question, answer="fine", id_="1"):
    return Example(id_, (Message("user", question), Message("assistant", answer)))


ROWS = [ask(f"question number {number}", id_=str(number)) for number in range(400)]
PARTS = {"dev": 0.1, "test": 0.2}


def test_a_split_is_a_partition_of_about_the_asked_sizes():
    parts = split(ROWS, PARTS)
    assert sorted(index for rows in parts.values() for index in rows) == list(range(400))
    for name, share in PARTS.items():
        assert abs(len(parts[name]) - 400 * share) < 4 * (400 * share * (1 - share)) ** 0.5


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(60)), kept=st.integers(55, 60))
def test_a_row_keeps_its_part_whatever_happens_to_the_others(order, kept):
    def parts(indices):
        rows = split([ROWS[index] for index in indices], {"dev": 0.3, "test": 0.3})
        return {indices[place]: name for name, places in rows.items() for place in places}

    before, after = parts(range(60)), parts(order[:kept])
    assert all(before[index] == name for index, name in after.items())


def test_rows_that_ask_the_same_never_straddle():
    doubled = [*ROWS, *[ask(f"  QUESTION, number {number}?", "other", f"x{number}") for number in range(400)]]
    for rows in split(doubled, PARTS).values():
        assert {index % 400 for index in rows if index < 400} == {index % 400 for index in rows if index >= 400}


def test_another_seed_is_another_split_and_an_empty_part_is_refused():
    assert split(ROWS, PARTS, seed=1) != split(ROWS, PARTS)
    with pytest.raises(DataError) as caught:
        split(ROWS[:1], PARTS)
    assert caught.value.code == "E-DATA-SPLIT"


def test_what_the_rows_state_comes_first_and_the_hash_draws_only_the_rest():
    said = {0: "test", 1: "test", 2: "train", 3: "dev"}
    rows = [replace(row, part=said.get(index, "")) for index, row in enumerate(ROWS)]
    parts = split(rows, PARTS)
    assert (parts["test"], parts["dev"]) == ([0, 1], [3])
    assert len(parts["train"]) == 397
    assert split([replace(row, part="test") for row in ROWS], PARTS) == split(ROWS, PARTS)


def test_rows_that_state_no_dev_get_one_from_what_is_left_to_train():
    rows = [replace(row, part="test" if index < 100 else "train") for index, row in enumerate(ROWS)]
    parts = split(rows, PARTS)
    assert parts["test"] == list(range(100))
    assert set(parts["dev"]) == {index for index in split(ROWS, {"dev": 0.1})["dev"] if index >= 100}


def test_a_smaller_subset_is_inside_a_larger_one_and_both_have_about_their_share():
    subsets = [{row.id for row in ROWS if within(row, share, 3)} for share in (0.1, 0.3, 0.8, 1.0)]
    assert all(small < large for small, large in pairwise(subsets))
    assert all(abs(len(found) / 400 - share) < 0.1 for found, share in zip(subsets, (0.1, 0.3, 0.8, 1.0), strict=True))
    in_test = {int(ROWS[index].id) for index in split(ROWS, PARTS, 3)["test"]}
    share = sum(int(row) in in_test for row in subsets[1]) / len(subsets[1])
    assert abs(share - 0.2) < 4 * (0.16 / len(subsets[1])) ** 0.5  # the subset and the split are independent


RUN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def test_leaks_are_found_exactly_and_by_thirteen_words():
    train = [ask("What IS the time?"), ask(f"before {RUN} after"), Example("3", text=f"a document with {RUN}")]
    test = [ask("what is the time"), ask(f"quite other words {RUN}."), ask(RUN[:-9]), ask("new")]
    found = overlap(train, test)
    assert found.exact == ((0, 0),)
    assert found.ngram == ((1, 1),)
    assert found.counts() == {"exact": 1, "near": 0, "ngram": 1, "boilerplate": 0}
    assert duplicates([*test, ask("New!")]) == 1


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), min_size=2, max_size=8))
def test_runs_of_words_are_those_of_a_slow_search(texts):
    rows = [ask(" ".join(text), "z") for text in texts]
    half = len(rows) // 2
    train, test = rows[:half], rows[half:]

    def shares(first, second):
        one, two = ([" ".join((*t, "z")[i : i + 4]) for i in range(len(t) - 2)] for t in (first, second))
        return bool(set(one) & set(two))

    expected = {j for j in range(len(test)) for i in range(half) if shares(texts[i], texts[half + j])}
    found = overlap(train, test, words=4)
    exact = {j for j in range(len(test)) if texts[half + j] in texts[:half]}
    assert {j for _, j in found.exact} == exact
    near = {j for _, j in found.near}  # said first, and not again
    assert {j for _, j in found.ngram} == expected - exact - near


def test_the_wording_of_the_task_is_no_leak():
    train = [ask(f"{RUN}: item {number}") for number in range(20)]
    test = [ask(f"{RUN}: piece {number}") for number in range(20)]
    assert overlap(train, test).counts() == {"exact": 0, "near": 0, "ngram": 0, "boilerplate": 20}


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_words_of_ascii_text_are_those_of_the_pattern(text):
    assert words(text) == WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def test_words_of_scripts_without_spaces_are_letters():
    assert words("Straße 12, 你好! カタ") == ["strasse", "12", "你", "好", "カ", "タ"]


def test_labels_are_short_answers_that_come_again():
    assert label_set([ask(str(n), ("a", "b")[n % 2]) for n in range(6)]) == ("a", "b")
    assert label_set([ask(str(n), str(n)) for n in range(6)]) is None
    assert label_set([ask(str(n), "same") for n in range(6)]) is None
    assert label_set([ask(str(n), ("a", "long " * 20)[n % 2]) for n in range(6)]) is None
    assert label_set([Example("1", text="a")] * 9) is None
    assert label_set([ask(str(n), str(n % 9)) for n in range(90)], most=8) is None


TURNS = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("row", "name", "settings"),
    [
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca", {}),
        ({"conversations": TURNS, "id": "1"}, "messages", {}),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages", {}),
        ({"prompt": "a", "completion": "b"}, "prompt_completion", {"prompt": "prompt"}),
        ({"text": "a", "label": 1}, "prompt_completion", {"completion": "label", "numbers": True}),
        ({"text": "a", "label": 1, "class": "b"}, "prompt_completion", {"completion": "class", "numbers": False}),
        ({"text": "a", "category": "b"}, "prompt_completion", {"prompt": "text", "completion": "category"}),
        ({"Question": "a", "Answer": "b"}, "prompt_completion", {"prompt": "Question", "completion": "Answer"}),
        ({"text": "a", "intent": "b", "split": "c"}, "prompt_completion", {"completion": "intent"}),
        ({"text": "a", "title": "b"}, "plain_text", {}),
    ],
)
def test_the_format_of_usual_rows_is_guessed_with_its_columns(tmp_path, row, name, settings):
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps(row) + "\n") * 3)
    found = guess_format("rows.jsonl", tmp_path)
    assert found.format.name == name
    assert {key: getattr(found.format, key) for key in settings} == settings
    assert found.confidence >= 0.7
    assert all(key in found.reason for key in row)


@pytest.mark.parametrize(
    ("odd", "row", "settings"),
    [
        ({"text": "", "label": "b"}, {"text": "a", "label": "b"}, {"prompt": "text", "completion": "label"}),
        ({"text": "a", "label": None, "intent": "b"}, {"text": "a", "label": "b"}, {"completion": "label"}),
        ({"input": ""}, {"input": "### Human: a\n### Assistant: b"}, {"text": "input"}),
    ],
)
def test_an_odd_first_row_does_not_name_the_columns(tmp_path, odd, row, settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [odd, *[row] * 9]))
    found = guess_format("rows.jsonl", tmp_path).format
    assert {key: getattr(found, key) for key in settings} == settings


def test_a_text_file_is_a_document(tmp_path):
    (tmp_path / "book.txt").write_text("Once upon a time.\n")
    assert guess_format("book.txt", tmp_path).format.name == "plain_text"


def test_rows_that_no_format_fits_are_refused_with_their_columns(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": "b", "c": 3}\n')
    with pytest.raises(DataError) as caught:
        guess_format("rows.jsonl", tmp_path)
    assert caught.value.code == "E-DATA-GUESS"
    assert "a, c" in caught.value.what
