"""The skill generators: right answers, fair options, and two parts that never meet."""

import re
from itertools import islice
from random import Random

import pytest

from keeptune.pocket.skills import SKILLS, items, split
from keeptune.pocket.words import CATEGORIES

NAMES = sorted(SKILLS)


def made(name, count=300):
    random = Random(5)
    return [SKILLS[name](random) for _ in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_makes_the_same_items(name):
    assert made(name, 20) == made(name, 20)
    assert list(islice(items(SKILLS[name], 1, "test"), 9)) == list(islice(items(SKILLS[name], 1, "test"), 9))


@pytest.mark.parametrize("name", NAMES)
def test_train_and_test_contents_are_disjoint(name):
    train = {item.key for item in islice(items(SKILLS[name], "pretraining", "train"), 400)}
    test = {item.key for item in islice(items(SKILLS[name], "suite", "test"), 400)}
    assert not train & test


def test_a_reworded_question_stays_in_its_part():
    parts = {}
    for item in made("arithmetic", 3000):
        assert parts.setdefault(item.key, split(item)) == split(item)


def test_a_fifth_of_the_contents_is_for_testing():
    share = sum(split(item) == "test" for item in made("copying", 3000)) / 3000
    assert abs(share - 52 / 256) < 0.03  # first byte divisible by 5; four standard errors


@pytest.mark.parametrize("name", NAMES)
def test_options_are_different_and_as_many_as_promised(name):
    binary = name in {"comparison", "mapping"}
    for item in made(name):
        assert len({item.answer, *item.distractors}) == len(item.distractors) + 1
        assert len(item.distractors) == (1 if binary else 3)


def test_arithmetic_answers_are_right():
    for item in made("arithmetic"):
        first, sign, second = re.search(r"(\d+) (\+|-|plus|minus) (\d+)", item.prompt).groups()
        expected = int(first) + int(second) if sign in "+plus" else int(first) - int(second)
        assert int(item.answer) == expected
        assert all(len(wrong) == len(item.answer) for wrong in item.distractors)


def test_comparison_answers_are_right():
    for item in made("comparison"):
        numbers = [int(n) for n in re.findall(r"\d+", item.prompt)]
        largest = re.search("larger|greater|bigger", item.prompt)
        assert int(item.answer) == (max(numbers) if largest else min(numbers))


def test_copied_words_stand_in_the_prompt():
    for item in made("copying"):
        assert item.answer in item.prompt
        assert not any(wrong in item.prompt for wrong in item.distractors)


def test_recalled_labels_belong_to_the_asked_word():
    for item in made("key_recall"):
        *pairs, query = item.key.split(" ")
        assert dict(pair.split("=") for pair in pairs)[query] == item.answer


def test_mapped_words_share_the_kind_of_their_label():
    for item in made("mapping"):
        *pairs, query = item.key.split(" ")
        shown = [word for word, label in (pair.split("=") for pair in pairs) if label == item.answer]
        assert query not in shown
        assert any({query, *shown} <= set(words) for words in CATEGORIES.values())


def test_looked_up_values_stand_in_the_fact_about_the_key():
    for item in made("lookup"):
        asked = item.key.rsplit(" ", 1)[1]
        fact = next(sentence for sentence in item.prompt.split(". ") if re.search(rf"\b{asked}\b", sentence))
        assert fact.rstrip(".").endswith(item.answer)


def test_a_thing_is_of_the_answered_kind_and_of_no_other_option():
    for item in made("category"):
        word = item.key.split(" ")[0]
        kind, *wrong_kinds = (
            text.removeprefix("The kind is ").rstrip(".") for text in (item.answer, *item.distractors)
        )
        assert word in CATEGORIES[kind]
        assert not any(word in CATEGORIES[wrong] for wrong in wrong_kinds)


def test_positions_count_from_one():
    for item in made("position"):
        *words, index = item.key.split(" ")
        assert item.answer == f"The word is {words[int(index)]}."
