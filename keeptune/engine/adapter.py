"""Adapter: what is attached under one name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from keeptune.engine.places import Placed


class Adapter(nn.Module):
    """One name's methods and their deltas.

    Attributes:
        methods: the settings, one or (a hybrid) several.
        parts: for each method its deltas, by the key of their place.
        trained: names of the base's own parameters that it trains; with any of them it cannot be taken off.
    """

    def __init__(
        self,
        name: str,
        methods: Sequence[Any],
        placed: Sequence[Sequence[Placed]],
        trainable: bool,
        trained: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.name, self.methods, self.trainable, self.trained = name, tuple(methods), trainable, frozenset(trained)
        self.placed = [list(part) for part in placed]
        self.parts = nn.ModuleList(nn.ModuleDict({p.place.key: p.delta for p in part}) for part in placed)
        assert all(len({p.place for p in part}) == len(part) for part in placed), "a method has one delta at a place"
        self.parts.requires_grad_(trainable)

    @property
    def trains_base(self) -> bool:
        """Whether it changes the base itself."""
        return bool(self.trained)

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps, by the names it has there."""
        return tensors_of(self.placed)


def fit(placed: Sequence[Sequence[Placed]], tensors: Mapping[str, Tensor]) -> None:
    """Gives deltas the sizes of a file's tensors, before they are filled from it."""
    for number, part in enumerate(placed):
        prefix = f"{number}." if len(placed) > 1 else ""
        for place, delta, _ in part:
            names = {key: prefix + place.name_of(key) for key in delta.kept()}
            delta.fit({key: tensors[name] for key, name in names.items() if name in tensors})


def tensors_of(placed: Sequence[Sequence[Placed]]) -> dict[str, Tensor]:
    """What files keep of deltas, by `path.parameter`; the names of a hybrid begin with the method's number."""
    named = {}
    for number, part in enumerate(placed):
        prefix = f"{number}." if len(placed) > 1 else ""
        for place, delta, _ in part:
            named.update({prefix + place.name_of(key): tensor for key, tensor in delta.kept().items()})
    return named
