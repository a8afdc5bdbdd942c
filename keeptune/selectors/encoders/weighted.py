"""The mean of a model's last hidden states, later tokens counting more: a causal model has read more by then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keeptune.core.example import Example
from keeptune.selectors import Context
from keeptune.selectors._states import pooled_states
from keeptune.selectors.encoders import Encoder


class Weighted(Encoder):
    """e = h / |h|, h = sum_t w_t h_t with w_t = t / (1 + 2 + ... + T), t = 1 ... T.

    The pooling of RDS+ (Ivison et al. 2025, arXiv:2503.01807), after SGPT (Muennighoff 2022, arXiv:2202.08904).
    """

    def encode(self, examples: Sequence[Example], context: Context) -> NDArray[np.float32]:
        """[N, D] in float32."""
        return pooled_states(examples, context, "weighted")
