"""Curation: candidates go through rules in turn; what each removes is counted and shown, the rest may be sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from keeptune.data.curation import Candidate, Rule

SHOWN = 3
RELATIVE: Mapping[str, Mapping[str, object]] = {
    "score": {"least": "q0.5"},
    "length": {"least": "q0.25", "most": "q0.95"},
    "first_person": {"most": "q0.5"},
}
"""Bounds relative to the exchange, for sites whose scores and lengths are not those of the largest ones."""


@dataclass
class Removal:
    """What one rule did to one group.

    Attributes:
        rule: with its quantiles as numbers.
        alone: candidates that it would remove if it were the only rule.
        removed: those that no earlier rule had removed.
        rewritten: candidates that it changed.
        left: those that remain after it.
        shown: the first removed, with the reason.
    """

    rule: Rule
    alone: int = 0
    removed: int = 0
    rewritten: int = 0
    left: int = 0
    shown: list[tuple[Candidate, str]] = field(default_factory=list)


def curate(candidates: Sequence[Candidate], rules: Sequence[Rule]) -> tuple[list[Candidate], list[Removal]]:
    """The candidates of one group that every rule keeps, and what each rule did, in its order."""
    left = list(candidates)
    removals = []
    for given in sorted(rules, key=lambda rule: rule.order):
        done = Removal(given.fitted(candidates))
        done.alone = sum(done.rule.reason(candidate) is not None for candidate in candidates)
        kept = []
        for candidate in left:
            reason = done.rule.reason(candidate)
            if reason is None:
                new = done.rule.rewritten(candidate)
                done.rewritten += new is not candidate
                kept.append(new)
            elif len(done.shown) < SHOWN:
                done.shown.append((candidate, reason))
        done.removed, left, done.left = len(left) - len(kept), kept, len(kept)
        removals.append(done)
    return left, removals


def sample(
    groups: Mapping[str, Sequence[Candidate]], sizes: Mapping[str, int], rows: int, temperature: float, seed: int
) -> list[Candidate]:
    """Draws groups with p proportional to size^(1/temperature), and takes the best question left in the drawn one.

    The best has the most votes for its question, then for its answer. `temperature` 1 draws in proportion to the
    groups' sizes, 3 is LIMA's, and a large one draws all groups equally often.

    Args:
        groups: what the rules kept.
        sizes: candidates of each group before any rule.
        rows: how many are taken; all when there are fewer.
        temperature: of the draw.
        seed: of the draw.
    """
    draw = Random(f"{seed}|curate")
    waiting = {
        name: sorted(found, key=lambda one: (one.asked or 0.0, one.score or 0.0))
        for name, found in groups.items()
        if found
    }
    taken: list[Candidate] = []
    while waiting and len(taken) < rows:
        names = list(waiting)
        (name,) = draw.choices(names, [sizes[one] ** (1 / temperature) for one in names])
        taken.append(waiting[name].pop())
        if not waiting[name]:
            del waiting[name]
    return taken
