"""A seeded random choice: what every other selector has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keeptune.core.example import Example
from keeptune.selectors import Context, Selection, Selector


class Random(Selector):
    """So many examples, drawn without replacement; every example is as likely as any other."""

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """Examples in the order they were drawn; the score is 0 for all."""
        count = self.budget(examples)
        drawn = np.random.default_rng(context.seed).permutation(len(examples))[:count]
        return Selection(tuple(map(int, drawn)), (0.0,) * count, ("drawn at random",) * count)
