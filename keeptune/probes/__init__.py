"""The probes shelf: functions from frozen states to answers, one family per file.

Shapes: U units, B texts padded to N units, D width, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from keeptune.core.errors import RecipeError
from keeptune.core.spec import Spec

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["labels", "edges"]

EPOCHS = 40
"""The most that a probe learns."""


class Probe(Spec, shelf="keeptune.probes"):
    """A family of functions; its fields say how rich it is."""

    serves: ClassVar[frozenset[Kind]] = frozenset({"labels"})
    """`labels`: states `[U, D]` to scores `[U, C]`. `edges`: states `[B, N, D]` to scores `[B, N, N]` of heads."""

    def net(self, width: int, classes: int, kind: Kind) -> nn.Module:
        """A new function with random weights, from torch's global generator.

        Args:
            width: D.
            classes: C; without meaning for edges.
            kind: what it answers, one of `serves`.
        """
        raise NotImplementedError

    @property
    def title(self) -> str:
        """What pictures and tables call it."""
        return self.name

    def check(self, kind: Kind) -> None:
        """Refuses a kind of question that this family has no form for (E-PROBE-KIND)."""
        if kind not in self.serves:
            others = [name for name in Probe.names() if kind in Probe.find(name).serves]
            raise RecipeError(
                f"the probe '{self.name}' does not answer {kind}.",
                code="E-PROBE-KIND",
                fix=f"Use {' or '.join(others)}.",
            )
