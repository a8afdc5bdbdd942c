"""The state of every random generator that training draws from, as tensors and plain data."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """Python's, numpy's, torch's and each GPU's generator.

    Attributes:
        tensors: states of torch's generators (bytes) and of numpy's (words).
        plain: the rest, as JSON can hold it.
    """

    tensors: dict[str, Tensor]
    plain: dict[str, Any]

    @classmethod
    def capture(cls) -> RandomState:
        """As it is now."""
        state: Any = numpy.random.get_state(legacy=True)
        kind, keys, position, has_gauss, cached = state
        version, words, gauss = random.getstate()
        tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(keys.astype(numpy.int64))}
        if torch.cuda.is_available():
            tensors.update({f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())})
        plain = {
            "numpy": [kind, int(position), int(has_gauss), float(cached)],
            "python": [version, list(words), gauss],
        }
        return cls(tensors, plain)

    def restore(self) -> None:
        """Sets every generator back."""
        kind, position, has_gauss, cached = self.plain["numpy"]
        keys = self.tensors["numpy"].numpy().astype(numpy.uint32)
        numpy.random.set_state((kind, keys, position, has_gauss, cached))
        version, words, gauss = self.plain["python"]
        random.setstate((version, tuple(words), gauss))
        torch.set_rng_state(self.tensors["torch"])
        count = sum(name.startswith("cuda.") for name in self.tensors)
        if torch.cuda.is_available() and count == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([self.tensors[f"cuda.{i}"] for i in range(count)])
