"""Self-Instruct (Wang et al. 2022, arXiv:2212.10560): a model writes new tasks after the example of some, then answers.

A request shows eight tasks, at most two of them machine-written, and wants more. What comes back passes named rules,
each of which counts what it drops; a task stays when its ROUGE-L with every task of the pool is at most 0.7. Unlike the
paper, a task carries its own input, and is answered in one call without a first question about classification.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from keeptune.evaluations._text_match import rouge_l
from keeptune.recipes.writers import Writer, Written

DEMONSTRATIONS, MACHINE_WRITTEN, MOST_SIMILAR = 8, 2, 0.7
FEWEST_WORDS, MOST_WORDS = 4, 150
REQUESTS_AT_ONCE, IDLE_ROUNDS = 8, 5
OUTSIDE_TEXT = re.compile(
    r"\b(?:images?|graphs?|pictures?|files?|maps?|draw|plot|go to|video|audio|music|flowchart|diagram)\b", re.IGNORECASE
)
ITEM = re.compile(r"(?:^|\n)\s*\d+[.):]\s*")
HEAD = "Come up with a series of different tasks. Each stands alone and can be answered in text.\n"


def self_instruct(
    seeds: Sequence[str], writer: Writer, rows: int, counts: Counter[str], *, seed: int, temperature: float = 0.7
) -> Iterator[tuple[str, str]]:
    """New tasks with their answers, until there are `rows` or nothing new has come for five rounds.

    Args:
        seeds: tasks that people wrote.
        writer: who writes.
        rows: how many are wanted.
        counts: `written`, `kept`, and one count for each rule that dropped some.
        seed: of the demonstrations and the samples.
        temperature: of the tasks; answers are greedy.
    """
    draw, made = Random(f"{seed}|self_instruct"), list[str]()
    idle = taken = 0
    for turn in range(100_000):
        if taken >= rows or idle >= IDLE_ROUNDS:
            return
        asked = [request(seeds, made, draw) for _ in range(REQUESTS_AT_ONCE)]
        replies = writer(asked, temperature=temperature, seed=1000 * seed + turn)
        fresh = []
        for task in (task for reply in replies for task in tasks_in(reply)):
            counts["written"] += 1
            rule = dropped_by(task) or ("similar" if similar(task, [*seeds, *made]) else None)
            counts[rule or "new tasks"] += 1
            if rule is None:
                made.append(task)
                fresh.append(task)
        idle = 0 if fresh else idle + 1
        for task, answer in zip(fresh, writer(fresh, temperature=0.0, seed=0) if fresh else [], strict=True):
            rule = answer_dropped_by(task, answer) or ("more than wanted" if taken >= rows else None)
            counts[rule or "kept"] += 1
            if rule is None:
                taken += 1
                yield task, answer.text


def request(seeds: Sequence[str], made: Sequence[str], draw: Random) -> str:
    """Eight numbered tasks in random order, at most two of them machine-written, and the number of the next one."""
    own = draw.sample(list(made), min(len(made), MACHINE_WRITTEN))
    shown = own + draw.sample(list(seeds), min(len(seeds), DEMONSTRATIONS - len(own)))
    draw.shuffle(shown)
    lines = [f"{number}. {' '.join(task.split())}" for number, task in enumerate(shown, start=1)]
    return HEAD + "\n".join([*lines, f"{len(shown) + 1}."])


def tasks_in(reply: Written) -> list[str]:
    """The numbered tasks of a reply; the last one goes when the reply was cut."""
    found = [" ".join(piece.split()) for piece in ITEM.split(reply.text)]
    found = [piece for piece in found if piece]
    return found if reply.ended else found[:-1]


def dropped_by(task: str) -> str | None:
    """The rule that drops a task, by name."""
    length = len(task.split())
    if length < FEWEST_WORDS:
        return "short"
    if length > MOST_WORDS:
        return "long"
    if OUTSIDE_TEXT.search(task):
        return "not text"
    if task.lower().startswith("write a program"):
        return "program"
    return None if task[0].isalnum() else "punctuation"


def similar(task: str, pool: Sequence[str]) -> bool:
    """Whether its ROUGE-L with some task of the pool is above 0.7."""
    return any(rouge_l(task, other) > MOST_SIMILAR for other in pool)


def answer_dropped_by(task: str, answer: Written) -> str | None:
    """The rule that drops an answer, by name."""
    if not answer.ended:
        return "cut answer"
    if not answer.text:
        return "empty answer"
    return "echo" if rouge_l(answer.text, task) > MOST_SIMILAR else None
