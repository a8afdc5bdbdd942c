"""Scores made by hand, with items as evaluations give them."""

from __future__ import annotations

from random import Random

from keeptune.core.score import Item, Score


def accuracy(name, right, chance=0.5, kind="accuracy", metric="accuracy", higher_is_better=True):
    items = tuple(Item(str(i), name, float(value), gold_logprob=-1.0 - value) for i, value in enumerate(right))
    value = sum(right) / len(right)
    return Score(name, kind, metric, value, higher_is_better, len(items), 0.01, chance, items)


def leak(right):
    return accuracy("format_leak", right, None, "leak", "leak", False)


def corpus(name, bits, size=400.0):
    items = tuple(Item(str(i), name, value, size=size) for i, value in enumerate(bits))
    value = sum(bits) / size / len(bits)
    return Score(name, "corpus", "bits_per_byte", value, False, len(items), 0.01, None, items)


def answers(share, n, seed=0):
    random = Random(seed)
    return [float(random.random() < share) for _ in range(n)]


def flipped(right, losses, gains):
    """The same answers with so many right ones turned wrong and so many wrong ones turned right, from the front."""
    changed = list(right)
    for old, count in ((1.0, losses), (0.0, gains)):
        for index in [i for i, value in enumerate(right) if value == old][:count]:
            changed[index] = 1.0 - old
    return changed


def bits(n=120, factor=1.0, seed=0):
    random = Random(seed)
    return [factor * (700 + 100 * random.random()) for _ in range(n)]


def suite(losses=0, gains=0, factor=1.0, leaks=0, target=0.1, n=1500):
    """Three tasks, a corpus, the leak and a target."""
    tasks = [accuracy(name, flipped(answers(0.8, n, seed), losses, gains)) for seed, name in enumerate("abc")]
    return [
        accuracy("task", answers(target, 600, 9), 0.1, "target", "label_accuracy"),
        *tasks,
        corpus("books", bits(factor=factor)),
        leak([1.0] * leaks + [0.0] * (600 - leaks)),
    ]
