"""The setting `layers`: the blocks that a method works on."""

from __future__ import annotations

from typing import Literal

from keeptune.core.errors import PlanError

Layers = Literal["all"] | list[int]


def chosen_layers(layers: Layers, count: int) -> list[int]:
    """Indices of the chosen blocks, from the embedding to the head.

    Args:
        layers: `all`, or indices; 0 is next to the embedding.
        count: blocks of the model.

    Raises:
        PlanError: none is chosen, or one that the model does not have (E-METHOD-LAYER).

    >>> chosen_layers([3, 1], 4)
    [1, 3]
    """
    if layers == "all":
        return list(range(count))
    chosen = sorted(set(layers))
    wrong = [index for index in chosen if not 0 <= index < count]
    if wrong or not chosen:
        raise PlanError(
            f"`layers` names {wrong[0] if wrong else 'no layer'}; this model's are 0 to {count - 1}.",
            code="E-METHOD-LAYER",
            where={"key": "layers"},
            fix="Name layers that it has, or `all`.",
        )
    return chosen
