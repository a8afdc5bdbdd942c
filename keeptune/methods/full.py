"""Full fine-tuning: every parameter of the base is trained.

Nothing is added, so nothing can be taken off: `detach` is refused, before and after training. The reference for a KL
term is a second copy of the base. `merge` accepts the weights as the new base.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from keeptune.core.shape import ModelShape, distinct_inputs
from keeptune.engine.places import Placed
from keeptune.methods import Cost, Held, Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BYTES = 4  # a parameter that is being trained is kept in float32


class Full(Method):
    """Trains the base itself; a tied head and embedding are one parameter."""

    detachable: ClassVar[bool] = False
    trains_base: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """No deltas."""
        return []

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """The weights are there already."""

    def trained(self, model: PreTrainedModel) -> list[str]:
        """All of them."""
        from keeptune.engine.book import base_parameters

        return [name for name, _ in base_parameters(model)]

    def cost(self, shape: ModelShape) -> Cost:
        """All parameters, each once."""
        return Cost(
            shape.parameters(), BYTES * shape.parameters(), held=Held(held_in_place(shape, range(shape.layers)))
        )

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """The weights are in place already."""


def held_in_place(shape: ModelShape, layers: Iterable[int]) -> int:
    """Numbers per token that layers hold where their own weights train: inputs of maps, outputs of norms."""
    return sum(distinct_inputs(shape.maps_of(layer)) + shape.norms_of(layer) * shape.width for layer in layers)
