"""Dedupe: of examples that say the same, or nearly the same, the first is kept."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from keeptune.core.example import Example
from keeptune.data.minhash import NearDuplicates, runs_of
from keeptune.data.normalise import whole
from keeptune.selectors import Context, Selection, Selector


class Dedupe(Selector):
    """Drops an example whose words, in order, are those of an earlier one; with `near` also those that share most runs.

    Near: a Jaccard index of the sets of runs of three words of 0.8 or more, estimated by MinHash (Broder 1997); texts
    of fewer than eight words are compared exactly only. Meaning is not compared: `deita` leaves out what is alike by
    cosine.
    """

    share: float = Field(1.0, gt=0, le=1, description="of the examples, the most that is kept")
    near: bool = Field(True, description="whether near duplicates go too")

    def select(self, examples: Sequence[Example], context: Context) -> Selection:
        """The first of each group in the order of the examples; the score is the size of its group."""
        count = self.budget(examples)
        first_of: dict[str, int] = {}
        leader = list(range(len(examples)))
        near = NearDuplicates()
        for place, example in enumerate(examples):
            said = whole(example)
            leader[place] = first_of.setdefault(" ".join(said), place)
            if self.near and leader[place] == place:
                near.add(place, runs_of(said))
        for later, earlier in sorted(near.pairs().items()):
            leader[later] = leader[earlier]
        # An exact copy follows the first of its words, which may itself have been near another.
        leader = [leader[place] if leader[place] == place else leader[leader[place]] for place in range(len(examples))]
        sizes: dict[int, int] = {}
        for place in leader:
            sizes[place] = sizes.get(place, 0) + 1
        kept = sorted(sizes)[:count]
        reasons = ["says something of its own" if sizes[i] == 1 else f"the first of {sizes[i]} alike" for i in kept]
        return Selection(tuple(kept), tuple(float(sizes[place]) for place in kept), tuple(reasons))
