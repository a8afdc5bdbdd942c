"""Seeded generators of the small abilities that pocket is taught and that its suite measures.

Every generator takes a `random.Random` and returns one `SkillItem`. `split` assigns the *content* of an
item (its numbers, its words, never its wording) to "train" or "test" by a stable hash, so that the
pretraining script and the suite can share the generators and never an item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from keeptune.pocket.words import CATEGORIES, COLOURS, CONTAINERS, NAMES, OBJECTS, PLACES, WORDS, article


@dataclass(frozen=True)
class SkillItem:
    """A question with one right answer.

    `prompt` is the user's text, `answer` the assistant's, `distractors` wrong answers of the same kind
    (three, or one for a binary question); `key` is the content that `split` hashes.
    """

    skill: str
    prompt: str
    answer: str
    distractors: tuple[str, ...]
    key: str


Generator = Callable[[Random], SkillItem]


def split(item: SkillItem) -> str:
    """The part of an item: "test" for a fifth of all contents (SHA-256 of skill and key), else "train"."""
    digest = hashlib.sha256(f"{item.skill}|{item.key}".encode()).digest()
    return "test" if digest[0] % 5 == 0 else "train"


def copying(random: Random) -> SkillItem:
    """Repeat three to six words; the distractors swap two words or replace one."""
    words = random.sample(WORDS, random.randint(3, 6))
    joint = random.choice((" ", ", "))
    wording = random.choice(
        (
            "Repeat these words: {}",
            "Copy the following words exactly.\n{}",
            "Say this back to me: {}",
            "{}\nWrite the same words again.",
            "Please repeat: {}",
        )
    )
    wrong: list[str] = []
    while len(wrong) < 3:
        changed = list(words)
        if random.random() < 0.5:
            first, second = random.sample(range(len(words)), 2)
            changed[first], changed[second] = changed[second], changed[first]
        else:
            changed[random.randrange(len(words))] = random.choice(WORDS)
        text = joint.join(changed)
        if changed != words and text not in wrong:
            wrong.append(text)
    text = joint.join(words)
    return SkillItem("copying", wording.format(text), text, tuple(wrong), " ".join(words))


def arithmetic(random: Random) -> SkillItem:
    """Addition or subtraction of numbers below 100, half of them below 10, with a result that is not negative."""
    limit = random.choice((10, 10, 20, 100))
    first, second = random.randrange(limit), random.randrange(limit)
    if random.random() < 0.5:
        result, sign, word = first + second, "+", "plus"
        key = f"{min(first, second)}+{max(first, second)}"
    else:
        first, second = max(first, second), min(first, second)
        result, sign, word = first - second, "-", "minus"
        key = f"{first}-{second}"
    wording = random.choice(("What is {a} {s} {b}?", "{a} {s} {b} =", "How much is {a} {w} {b}?"))
    low, high = ((0, 10), (10, 100), (100, 199))[len(str(result)) - 1]
    wrong = random.sample([n for n in range(low, high) if n != result], 3)
    prompt = wording.format(a=first, b=second, s=sign, w=word)
    return SkillItem("arithmetic", prompt, str(result), tuple(map(str, wrong)), key)


def comparison(random: Random) -> SkillItem:
    """Which of two numbers below 100 is larger, or smaller; a binary question."""
    first, second = random.sample(range(10, 100) if random.random() < 0.8 else range(10), 2)
    largest = random.random() < 0.5
    word = random.choice(("larger", "greater", "bigger")) if largest else random.choice(("smaller", "less"))
    wording = random.choice(
        ("Which number is {w}, {a} or {b}?", "{a} or {b}: which is {w}?", "Of {a} and {b}, name the one that is {w}.")
    )
    answer, wrong = (max, min) if largest else (min, max)
    numbers = (first, second)
    key = f"{min(numbers)},{max(numbers)},{largest}"
    prompt = wording.format(a=first, b=second, w=word)
    return SkillItem("comparison", prompt, str(answer(numbers)), (str(wrong(numbers)),), key)


def invented_labels(random: Random, count: int) -> list[str]:
    """`count` different labels without a meaning, drawn afresh for each episode: capital letters or syllables."""
    if random.random() < 0.5:
        return random.sample("ABCDEFGHIJKLMNOPQRSTUVWXYZ", count)
    labels: list[str] = []
    while len(labels) < count:
        label = random.choice("bdfgklmnprstvz") + random.choice("aeiou") + random.choice("bdfgklmnprstvxz")
        if label not in labels and label not in WORDS:
            labels.append(label)
    return labels


LAYOUTS = (
    ("word {x} ({y})", "word {x}"),
    ('- {x}: "{y}"', "- {x}:"),
    ("Word: {x}\n{y}", "Word: {x}"),
)
"""A labelled example and the open question. A byte-level tokenizer writes a word with the space before it, so words
always have one and labels never do: a label in the examples and the same label as an answer are equal tokens."""


def episode_text(random: Random, shots: list[tuple[str, str]], query: str) -> str:
    """The labelled examples and the open question, in one of several layouts."""
    line, closing = random.choice(LAYOUTS)
    return "\n".join([*(line.format(x=word, y=label) for word, label in shots), closing.format(x=query)])


def key_recall(random: Random) -> SkillItem:
    """Four words with four made-up labels; the query is one of the four words."""
    words, labels = random.sample(WORDS, 4), invented_labels(random, 4)
    shots = list(zip(words, labels, strict=True))
    query, answer = random.choice(shots)
    wrong = tuple(label for label in labels if label != answer)
    key = " ".join(f"{word}={label}" for word, label in sorted(shots)) + " " + query
    return SkillItem("key_recall", episode_text(random, shots, query), answer, wrong, key)


def mapping(random: Random) -> SkillItem:
    """Words of two categories with two made-up labels; the query is a new word of one of them."""
    categories, labels = random.sample(sorted(CATEGORIES), 2), invented_labels(random, 2)
    shots_each = random.randint(2, 4)
    shots, queries = [], []
    for category, label in zip(categories, labels, strict=True):
        *shown, query = random.sample(CATEGORIES[category], shots_each + 1)
        shots += [(word, label) for word in shown]
        queries.append((query, label))
    random.shuffle(shots)
    query, answer = random.choice(queries)
    wrong = tuple(label for label in labels if label != answer)
    key = " ".join(f"{word}={label}" for word, label in sorted(shots)) + " " + query
    return SkillItem("mapping", episode_text(random, shots, query), answer, wrong, key)


def invented_facts(random: Random) -> tuple[list[tuple[str, str]], str, str]:
    """Four made-up (key, value) facts, and the sentences that state one and ask for it."""
    kind = random.randrange(3)
    if kind == 0:
        container = random.choice(CONTAINERS)
        keys, things = random.sample(COLOURS, 4), random.sample(OBJECTS, 4)
        question = random.choice(("What does the {k} " + container + " hold?", "What is in the {k} " + container + "?"))
        return list(zip(keys, map(article, things), strict=True)), "The {k} " + container + " holds {v}.", question
    keys = random.sample(NAMES, 4)
    if kind == 1:
        fact, question, before = random.choice(
            (("{k} lives {v}.", "Where does {k} live?", "in "), ("{k} went {v}.", "Where did {k} go?", "to "))
        )
        return [(k, before + place) for k, place in zip(keys, random.sample(PLACES, 4), strict=True)], fact, question
    fact, question = random.choice((("{k} has {v}.", "What does {k} have?"), ("{k} bought {v}.", "What did {k} buy?")))
    return [(k, article(thing)) for k, thing in zip(keys, random.sample(OBJECTS, 4), strict=True)], fact, question


def lookup(random: Random) -> SkillItem:
    """Four facts and a question about one of them, or the beginning of its sentence to be completed."""
    facts, fact, question = invented_facts(random)
    asked, answer = random.choice(facts)
    text = " ".join(fact.format(k=k, v=v) for k, v in facts)
    if random.random() < 0.5:
        question = "Complete: " + fact.removesuffix(" {v}.")
    wrong = tuple(value for _, value in facts if value != answer)
    return SkillItem("lookup", f"{text} {question.format(k=asked)}", answer, wrong, f"{sorted(facts)} {asked}")


def category(random: Random) -> SkillItem:
    """Which of four kinds of thing a word names."""
    kinds = random.sample(sorted(CATEGORIES), 4)
    chosen = random.choice(kinds)
    word = random.choice(CATEGORIES[chosen])
    wording = random.choice(
        (
            "Which kind of thing is {w}: {o}?",
            "Choose the kind that fits {w}. Kinds: {o}.",
            "Put the word {w} into one of these groups: {o}.",
        )
    )
    options = ", ".join(kinds[:-1]) + " or " + kinds[-1]
    wrong = tuple(f"The kind is {kind}." for kind in kinds if kind != chosen)
    prompt = wording.format(w=word, o=options)
    return SkillItem("category", prompt, f"The kind is {chosen}.", wrong, f"{word} {sorted(kinds)}")


def position(random: Random) -> SkillItem:
    """The first, second, third, fourth or last word of a short list."""
    words = random.sample(WORDS, 4)
    index = random.randrange(4)
    ordinal = random.choice(("fourth", "last")) if index == 3 else ("first", "second", "third")[index]
    wording = random.choice(
        ("What is the {n} word of this list: {l}?", "List: {l}\nGive the {n} word.", "Name the {n} of these: {l}")
    )
    answer, *wrong = (f"The word is {word}." for word in (words[index], *words[:index], *words[index + 1 :]))
    prompt = wording.format(n=ordinal, l=", ".join(words))
    return SkillItem("position", prompt, answer, tuple(wrong), f"{' '.join(words)} {index}")


SKILLS: dict[str, Generator] = {
    generator.__name__: generator
    for generator in (copying, arithmetic, comparison, key_recall, mapping, lookup, category, position)
}


def items(generator: Generator, seed: int | str, part: str) -> Iterator[SkillItem]:
    """An endless stream of items of one part ("train" or "test"), fixed by the seed."""
    random = Random(f"{generator.__name__}/{seed}")
    while True:
        item = generator(random)
        if split(item) == part:
            yield item
