"""Evol-Instruct (Xu et al. 2023, arXiv:2304.12244): tasks become deeper or rarer, failed evolutions are eliminated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from keeptune.data.normalise import words
from keeptune.recipes.writers import Writer, Written

DEEPER = {
    "constraint": "Rewrite the task below with one more requirement.",
    "deepen": "Rewrite the task below so that it asks for more depth and breadth.",
    "concretise": "Rewrite the task below with special things in the place of general ones.",
    "reasoning": "Rewrite the task below so that it can only be solved in several steps.",
    "input": "Rewrite the task below so that it comes with data, such as a table or a list, to work on.",
}
RARER = "Write a new task of the same field as the one below, but a rarer one, of about the same length and difficulty."
RULES = (
    "It must make sense to a person, be answerable in text, and add 10 to 20 words at most. Reply with the task only."
)
JUDGE = (
    "Here are two tasks.\n\n1. {before}\n\n2. {after}\n\nDo they have the same requirements, the same depth "
    "and the same breadth? Reply with Yes or No."
)
LEAKS = (
    "given task",
    "rewritten task",
    "new task",
    "task below",
    "#task",
    "#rewritten",
    "given prompt",
    "rewritten prompt",
)
SORRY_WORDS = 80
STOP_WORDS = frozenset(
    "a an and are as at be but by for from has have he i if in is it its me my no not of on or our she so that the "
    "their them then there they this to was we were what which who will with yes you your".split()
)


def evolve(
    tasks: Sequence[str], writer: Writer, rounds: int, counts: Counter[str], *, seed: int, temperature: float = 1.0
) -> Iterator[tuple[str, str, int]]:
    """Evolved tasks with their answers and the round that made them.

    In each round every task of the pool is rewritten by one of five ways to make it deeper or by one to make it rarer,
    drawn at random. An evolution is eliminated, and its task stays as it was for the next round, when

    - `leaks`: it repeats the wording of the request to rewrite, or is empty or cut;
    - `no gain`: the writer judges that old and new are the same, or they are word for word;
    - `sorry`: the answer holds "sorry" and has fewer than 80 words;
    - `no content`: the answer is only stop words and punctuation, or cut.

    Args:
        tasks: to begin with.
        writer: rewrites, judges and answers.
        rounds: four in the paper.
        counts: `written`, `kept`, one for each operation and each rule.
        seed: of operations and samples.
        temperature: of the rewriting; judgements and answers are greedy.
    """
    pool, draw = list(tasks), Random(f"{seed}|evolve")
    for turn in range(rounds):
        chosen = [draw.choice([*DEEPER, "rarer"]) for _ in pool]
        asked = [f"{DEEPER.get(how, RARER)} {RULES}\n\n{task}" for how, task in zip(chosen, pool, strict=True)]
        new = writer(asked, temperature=temperature, seed=1000 * seed + turn)
        judged = writer(
            [JUDGE.format(before=old, after=made.text) for old, made in zip(pool, new, strict=True)],
            temperature=0.0, seed=0,
        )  # fmt: skip
        answers = writer([made.text or "?" for made in new], temperature=0.0, seed=0)
        for number, (how, made, verdict, answer) in enumerate(zip(chosen, new, judged, answers, strict=True)):
            rule = eliminated_by(pool[number], made, verdict.text, answer)
            counts.update(["written", f"operation {how}", rule or "kept"])
            if rule is None:
                pool[number] = made.text
                yield made.text, answer.text, turn + 1


def eliminated_by(before: str, made: Written, verdict: str, answer: Written) -> str | None:
    """The rule that eliminates an evolution, by name; None when it stays."""
    lowered = made.text.casefold()
    if not made.text or not made.ended or any(leak in lowered for leak in LEAKS):
        return "leaks"
    if words(before) == words(made.text) or words(verdict)[:1] in (["yes"], ["equal"]):
        return "no gain"
    said = words(answer.text)
    if "sorry" in said and len(said) < SORRY_WORDS:
        return "sorry"
    return "no content" if not answer.ended or not set(said) - STOP_WORDS else None
