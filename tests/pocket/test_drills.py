"""Drills teach one hidden rule each, and never what is kept for testing."""

from random import Random

import pytest

from keeptune.pocket.skills import SkillItem, split
from keeptune.pocket.words import CATEGORIES

KIND = {f"Word: {word}": kind for kind, words in CATEGORIES.items() for word in words}


def made(name, count=60):
    import drills

    random = Random(5)
    return [getattr(drills, name)(random) for _ in range(count)]


def test_a_word_keeps_its_label_through_a_key_drill():
    for turns in made("key_drill"):
        rule = dict(turns)
        assert all(rule[word] == label for word, label in turns)
        assert len(set(rule.values())) == len(rule)


def test_a_kind_keeps_its_label_through_a_mapping_drill():
    for turns in made("mapping_drill"):
        rule = {KIND[word]: label for word, label in turns}
        assert all(rule[KIND[word]] == label for word, label in turns)
        assert len({word for word, _ in turns}) == len(turns)


def test_looked_up_values_stand_in_the_opening_turn():
    for turns in made("lookup_drill"):
        assert all(f" {answer}." in turns[0][0] for _, answer in turns)
        assert len({answer for _, answer in turns}) == len(turns)


def test_positions_of_a_drill_are_those_of_its_list():
    places = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": 3}
    for turns in made("position_drill"):
        words = turns[0][0].split("\n")[0].removeprefix("List: ").split(", ") if turns else []
        for question, answer in turns:
            assert answer == f"The word is {words[places[question.split(' ')[-2]]]}."
            content = SkillItem("position", "", "", (), f"{' '.join(words)} {places[question.split(' ')[-2]]}")
            assert split(content) == "train"


def test_words_of_a_category_drill_are_of_the_answered_kind():
    for turns in made("category_drill"):
        for question, answer in turns:
            word = question.split(":")[0].split(" ")[-1].rstrip("?")
            assert word in CATEGORIES[answer.removeprefix("The kind is ").rstrip(".")]


def test_a_drill_always_teaches_something():
    import drills

    random = Random(5)
    assert all(drills.drill(random) for _ in range(300))
    assert sum(drills.DRILLS.values()) == pytest.approx(1.0)
