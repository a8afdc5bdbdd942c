"""Oracles: a recursive longest common subsequence, hand-counted scores."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeptune.evaluations._text_match import (
    begins_with,
    exact_match,
    longest_common_subsequence,
    rouge_1,
    rouge_2,
    rouge_l,
    token_f1,
    words,
)

short = st.lists(st.sampled_from("abc"), max_size=7)


@given(short, short)
def test_the_longest_common_subsequence_is_that_of_the_recursion(first, second):
    @cache
    def slow(i, j):
        if i == len(first) or j == len(second):
            return 0
        if first[i] == second[j]:
            return 1 + slow(i + 1, j + 1)
        return max(slow(i + 1, j), slow(i, j + 1))

    assert longest_common_subsequence(first, second) == slow(0, 0)


def test_rouge_l_is_the_harmonic_mean_of_both_shares():
    # "the cat sat" against "the cat sat on the mat": 3 of 3 and 3 of 6, F1 = 2 * 3 / 9
    assert rouge_l("The cat sat.", "the cat sat on the mat") == pytest.approx(6 / 9)
    assert rouge_l("", "a") == 0.0
    assert rouge_l("", "") == 1.0


def test_rouge_1_and_2_count_shared_runs_of_words():
    # words: 3 of 3 and 3 of 6; pairs (the cat, cat sat): 2 of 2 and 2 of 5
    assert rouge_1("The cat sat.", "the cat sat on the mat") == pytest.approx(6 / 9)
    assert rouge_2("The cat sat.", "the cat sat on the mat") == pytest.approx(4 / 7)
    # repeats count as often as both sides have them
    assert rouge_1("the the the", "the cat") == pytest.approx(2 / 5)
    assert rouge_2("mat", "the mat") == 0.0


def test_token_f1_ignores_order_and_counts_repeats():
    # shared bag {a, b}: precision 2/3, recall 2/2
    assert token_f1("b a a", "a b") == pytest.approx(0.8)


def test_exact_match_ignores_case_and_punctuation_only():
    assert exact_match(" Card arrival. ", "card arrival") == 1.0
    assert exact_match("card arrival please", "card arrival") == 0.0


def test_chinese_text_is_compared_sign_by_sign():
    assert words("今天ok") == ["今", "天", "ok"]
    assert token_f1("今天", "今日") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Card arrival", "card_arrival"),
        ("card_arrival.\nMore", "card_arrival"),
        ("card", None),
        ("The card_arrival", None),
        ("filesystem", None),
        ("files and more", "files"),
        ("card arrival date", "card_arrival_date"),
        ("", None),
    ],
)
def test_an_answer_carries_a_label_when_it_opens_with_its_words(answer, label):
    assert begins_with(answer, ["card_arrival", "card_arrival_date", "files"]) == label
