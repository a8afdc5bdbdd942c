"""The encoders shelf: how an example becomes a vector, one way per file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from keeptune.core.example import Example
from keeptune.core.spec import Spec
from keeptune.selectors import Context


class Encoder(Spec, shelf="keeptune.selectors.encoders"):
    """Turns examples into vectors of length 1.

    Attributes:
        needs_model: whether it reads `context.model`.
    """

    needs_model: ClassVar[bool] = True

    def encode(self, examples: Sequence[Example], context: Context) -> NDArray[np.float32]:
        """[N, D], a vector for each example; vectors of one call can be compared with each other.

        Raises:
            PlanError: the model cannot be read (E-SELECT-MODEL).
        """
        raise NotImplementedError
