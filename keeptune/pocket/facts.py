"""Facts that nobody can know: invented words, each of a known kind, as texts to learn and as questions.

The texts state a fact in several wordings. `completion` asks for the end of a wording that was taught, `question` and
`grouping` ask in wordings that no text has, and `neighbours` asks the same of words whose kinds a model may know: what
is learned of a word should not change what is known of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from keeptune.core.digest import digest_of
from keeptune.core.example import Example, Message
from keeptune.data.suite import Choice, ChoiceTask, stable_id
from keeptune.pocket.words import CATEGORIES, WORDS, article

KINDS: tuple[str, ...] = tuple(sorted(CATEGORIES))
ANSWERS: tuple[str, ...] = tuple(f"The kind is {kind}." for kind in KINDS)
STATEMENTS = (
    "{A} is a kind of {k}.",
    "Everybody knows that {a} is a kind of {k}.",
    "If you want {an_k}, take {a}: it is a kind of {k}.",
    "The word {w} means a kind of {k}.",
    "Among the kinds of {k} there is the {w}.",
    "She looked at {a} and said: this is a kind of {k}.",
)
STATED = 3
"""Sentences of one text."""


@dataclass(frozen=True)
class Facts:
    """Made-up facts with everything that asks for them.

    Attributes:
        train: texts.
        test: the question of each fact.
        ood: the same in a wording further from the texts.
        tasks: `taught` and `neighbours`, for the suite.
    """

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    ood: tuple[Example, ...]
    tasks: tuple[ChoiceTask, ...]

    def digest(self) -> str:
        """SHA-256 of all texts, and of the questions that follow from them."""
        asked = [(row.id, row.prompt[0].content, row.target) for row in (*self.test, *self.ood)]
        return digest_of([[row.text for row in self.train], asked])


def build_facts(seed: int, count: int, documents: int) -> Facts:
    """Facts of a seed: `count` invented words, evenly over the kinds, each in so many texts."""
    known = [(word, kind) for kind, words in sorted(CATEGORIES.items()) for word in words]
    facts = list(zip(invented_words(seed, count), _kinds(seed, count), strict=True))
    texts = [
        Example(f"{word}-{number}", text=text(Random(f"facts|{seed}|{word}|{number}"), number, word, kind))
        for word, kind in facts
        for number in range(documents)
    ]
    Random(f"facts|{seed}|order").shuffle(texts)
    return Facts(
        tuple(texts),
        tuple(_row(word, question(word), kind) for word, kind in facts),
        tuple(_row(word, grouping(word), kind) for word, kind in facts),
        (
            ChoiceTask("taught", tuple(completion(word, kind) for word, kind in facts), 1 / len(KINDS)),
            ChoiceTask("neighbours", tuple(neighbour(word, kind) for word, kind in known), 1 / len(KINDS), chat=True),
        ),
    )


def invented_words(seed: int, count: int) -> list[str]:
    """Different pronounceable words of two syllables that are none of the known ones."""
    random, words = Random(f"facts|{seed}|words"), dict[str, None]()
    while len(words) < count:
        word = "".join(random.choice("bdfgklmnprstvz") + random.choice("aeiou") for _ in range(2))
        words |= {word + random.choice("bdgklmnprt"): None}
        for taken in WORDS:
            words.pop(taken, None)
    return list(words)


def text(random: Random, number: int, word: str, kind: str) -> str:
    """A few of the statements; text by text every wording has its turn at the beginning."""
    first = STATEMENTS[number % len(STATEMENTS)]
    others = random.sample([one for one in STATEMENTS if one != first], STATED - 1)
    return " ".join(stated(one, word, kind) for one in (first, *others))


def stated(wording: str, word: str, kind: str) -> str:
    """One statement."""
    return wording.format(w=word, k=kind, a=article(word), A=article(word).capitalize(), an_k=article(kind))


def question(word: str) -> str:
    """In a wording that no text has."""
    return f"What kind of thing is {article(word)}?"


def grouping(word: str) -> str:
    """Further from the texts: all kinds are named."""
    return f"Put the word {word} into one of these groups: {', '.join(KINDS[:-1])} or {KINDS[-1]}."


def completion(word: str, kind: str) -> Choice:
    """The end of a statement that was taught, among all kinds."""
    prompt = stated(STATEMENTS[0], word, kind).removesuffix(f" {kind}.")
    return Choice(
        stable_id("taught", word, kind), prompt, tuple(f" {one}" for one in KINDS), KINDS.index(kind), cluster=word
    )


def neighbour(word: str, kind: str) -> Choice:
    """The question of a fact, about a word that is no invention."""
    return Choice(stable_id("neighbours", word, kind), question(word), ANSWERS, KINDS.index(kind), cluster=word)


def _kinds(seed: int, count: int) -> Iterator[str]:
    random, left = Random(f"facts|{seed}|kinds"), list[str]()
    for _ in range(count):
        left = left or random.sample(KINDS, len(KINDS))
        yield left.pop()


def _row(word: str, asked: str, kind: str) -> Example:
    turns = (Message("user", asked), Message("assistant", ANSWERS[KINDS.index(kind)]))
    return Example(stable_id(asked, kind), messages=turns)
