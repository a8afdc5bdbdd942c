"""Chats of many short turns under one hidden rule: where pocket learns in-context mapping, lookup and position.

A single question teaches one answer; in a drill every turn after the first ones does, at a few tokens each.
A drill is a list of (user, assistant) pairs. No drill contains a content that `split` keeps for testing.
"""

from __future__ import annotations

from random import Random

from keeptune.pocket.skills import SkillItem, invented_facts, invented_labels, split
from keeptune.pocket.words import CATEGORIES, WORDS

Turns = list[tuple[str, str]]


def key_drill(random: Random) -> Turns:
    """Three to eight words with labels of their own, each asked about three times."""
    words = random.sample(WORDS, random.randint(3, 8))
    pairs = list(zip(words, invented_labels(random, len(words)), strict=True))
    return [(f"Word: {word}", label) for word, label in (random.choice(pairs) for _ in range(3 * len(pairs)))]


def mapping_drill(random: Random) -> Turns:
    """New words of two or three kinds; the label is the kind's."""
    kinds = random.sample(sorted(CATEGORIES), random.choice((2, 2, 3)))
    labels = invented_labels(random, len(kinds))
    turns = [
        (f"Word: {word}", label)
        for kind, label in zip(kinds, labels, strict=True)
        for word in random.sample(CATEGORIES[kind], 10)
    ]
    random.shuffle(turns)
    return turns


def taught(skill: str, key: str) -> bool:
    """Whether a content may be trained on."""
    return split(SkillItem(skill, "", "", (), key)) == "train"


def lookup_drill(random: Random) -> Turns:
    """Four facts and a question about each of them."""
    facts, fact, question = invented_facts(random)
    opening = " ".join(fact.format(k=k, v=v) for k, v in facts) + " "
    if random.random() < 0.5:
        question = "Complete: " + fact.removesuffix(" {v}.")
    asked = [(k, v) for k, v in random.sample(facts, 4) if taught("lookup", f"{sorted(facts)} {k}")]
    return [(("" if i else opening) + question.format(k=k), v) for i, (k, v) in enumerate(asked)]


def position_drill(random: Random) -> Turns:
    """One list and a question about each of its places."""
    words = random.sample(WORDS, 4)
    turns: Turns = []
    for index in random.sample(range(4), 4):
        if taught("position", f"{' '.join(words)} {index}"):
            ordinal = random.choice(("fourth", "last")) if index == 3 else ("first", "second", "third")[index]
            opening = "" if turns else f"List: {', '.join(words)}\n"
            turns.append((f"{opening}Give the {ordinal} word.", f"The word is {words[index]}."))
    return turns


def category_drill(random: Random) -> Turns:
    """Four kinds and several words to sort into them."""
    kinds = random.sample(sorted(CATEGORIES), 4)
    turns: Turns = []
    for _ in range(7):
        kind = random.choice(kinds)
        word = random.choice(CATEGORIES[kind])
        if taught("category", f"{word} {sorted(kinds)}"):
            opening = "Which kind of thing is {w}: {o}?" if not turns else "And {w}?"
            options = ", ".join(kinds[:-1]) + " or " + kinds[-1]
            turns.append((opening.format(w=word, o=options), f"The kind is {kind}."))
    return turns


DRILLS = {key_drill: 0.08, mapping_drill: 0.17, lookup_drill: 0.35, position_drill: 0.2, category_drill: 0.2}
"""Every kind of drill with its share of the drills."""


def drill(random: Random) -> Turns:
    """One drill; an empty one (all its contents kept for testing) is drawn again."""
    while True:
        turns = random.choices(list(DRILLS), weights=list(DRILLS.values()))[0](random)
        if turns:
            return turns
