"""The mean of a model's last hidden states over all tokens of an example."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keeptune.core.example import Example
from keeptune.selectors import Context
from keeptune.selectors._states import pooled_states
from keeptune.selectors.encoders import Encoder


class Mean(Encoder):
    """e = h / |h|, h = (1 / T) sum_t h_t over the T tokens of the whole training text, padding left out.

    h_t are the states behind the final norm. Used by "Maybe only 0.5%" (arXiv:2305.09246) and by sentence encoders.
    """

    def encode(self, examples: Sequence[Example], context: Context) -> NDArray[np.float32]:
        """[N, D] in float32."""
        return pooled_states(examples, context, "mean")
