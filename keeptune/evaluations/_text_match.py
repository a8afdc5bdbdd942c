"""A generated answer against its reference: exact match, token F1, ROUGE; and what the answer begins with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

_WORD = re.compile(r"\w+", re.UNICODE)


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; every Chinese or Japanese character is a word of its own."""
    spaced = re.sub(r"([\u3040-\u30ff\u3400-\u9fff])", r" \1 ", text.lower())
    return _WORD.findall(spaced)


def exact_match(answer: str, gold: str) -> float:
    """1 when the words are the same (SQuAD's rule, articles kept)."""
    return float(words(answer) == words(gold))


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the bag of words (Rajpurkar et al. 2016)."""
    given, wanted = words(answer), words(gold)
    shared = sum((Counter(given) & Counter(wanted)).values())
    return _f1(shared, len(given), len(wanted))


def rouge_n(answer: str, gold: str, size: int) -> float:
    """F1 of the bags of runs of `size` words (Lin 2004, ROUGE-N; no stemming); 1 when neither side has a run."""
    given, wanted = (_runs(words(text), size) for text in (answer, gold))
    shared = sum((Counter(given) & Counter(wanted)).values())
    return _f1(shared, len(given), len(wanted))


def rouge_1(answer: str, gold: str) -> float:
    """`rouge_n` of single words.

    >>> rouge_1("the cat sat", "the cat ran")
    0.6666666666666666
    """
    return rouge_n(answer, gold, 1)


def rouge_2(answer: str, gold: str) -> float:
    """`rouge_n` of pairs of neighbours.

    >>> rouge_2("the cat sat", "the cat ran")
    0.5
    """
    return rouge_n(answer, gold, 2)


def rouge_l(answer: str, gold: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, equations 2-4 with beta = 1; no stemming)."""
    given, wanted = words(answer), words(gold)
    return _f1(longest_common_subsequence(given, wanted), len(given), len(wanted))


METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "rouge_1": rouge_1,
    "rouge_2": rouge_2,
    "rouge_l": rouge_l,
}


def longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, in O(len(first) len(second)) time and O(len(second)) space.

    >>> longest_common_subsequence("the cat sat down".split(), "the dog sat".split())
    2
    """
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def begins_with(answer: str, labels: Iterable[str]) -> str | None:
    """The longest label whose words open the answer, or None: `Card arrival. ...` begins with `card_arrival`."""
    given = _label_words(answer)
    matching = [label for label in labels if (own := _label_words(label)) and given[: len(own)] == own]
    return max(matching, key=lambda label: len(_label_words(label)), default=None)


def _label_words(text: str) -> list[str]:
    return words(text.replace("_", " "))


def _runs(own: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(own[start : start + size]) for start in range(len(own) - size + 1)]


def _f1(shared: int, given: int, wanted: int) -> float:
    if given == 0 or wanted == 0:
        return float(given == wanted)
    return 2 * shared / (given + wanted)
