"""In-context learning: four kinds of thing, one example of each under a label without a meaning, and a new word."""

from __future__ import annotations

from random import Random

from keeptune.data.suite import Choice, stable_id
from keeptune.pocket.skills import episode_text, invented_labels
from keeptune.pocket.words import CATEGORIES

KINDS = 4


def mapping(random: Random) -> Choice:
    """`word crow (nun) ... word sparrow` -> `nun`; pocket was taught with two kinds at a time, so this is harder."""
    kinds, labels = random.sample(sorted(CATEGORIES), KINDS), invented_labels(random, KINDS)
    pairs = [random.sample(CATEGORIES[kind], 2) for kind in kinds]
    shots = [(shown, label) for (shown, _), label in zip(pairs, labels, strict=True)]
    random.shuffle(shots)
    gold = random.randrange(KINDS)
    prompt = episode_text(random, shots, pairs[gold][1])
    return Choice(stable_id("mapping", prompt, labels[gold]), prompt, tuple(labels), gold)
