"""Noise floor: how much the base model differs from itself when only the scoring changes.

Batch size, dtype, prompt paraphrase or few-shot order move a score without any training. No effect below the largest
such move may be reported as an effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class NoiseFloor:
    """Disagreement of repeated scorings of one model.

    Attributes:
        floor: largest absolute delta over pairs of scorings (relative for `noise_floor_ratio`).
        discordance: largest share of items whose score differs, over pairs.
        scorings: number of scorings compared.
    """

    floor: float
    discordance: float
    scorings: int


def noise_floor(scorings: ArrayLike) -> NoiseFloor:
    """Largest |mean_i - mean_j| over pairs of scorings.

    Args:
        scorings: shape (S, N), the same N items scored S >= 2 times.

    Raises:
        ValueError: fewer than two scorings, no items, or a score that is not finite.
    """
    scores_SN = _checked(scorings)
    floor = max(abs(float((one - other).mean())) for one, other in combinations(scores_SN, 2))
    return NoiseFloor(floor, _discordance(scores_SN), len(scores_SN))


def noise_floor_ratio(numerators: ArrayLike) -> NoiseFloor:
    """Largest |sum_i / sum_j - 1| over ordered pairs: the floor for bits per byte, in relative change.

    Args:
        numerators: shape (S, N), bits of the same N documents scored S >= 2 times, positive.
    """
    bits_SN = _checked(numerators)
    if not (bits_SN > 0).all():
        raise ValueError("bits are positive")
    totals = [float(bits.sum()) for bits in bits_SN]
    floor = max(totals) / min(totals) - 1
    return NoiseFloor(floor, _discordance(bits_SN), len(bits_SN))


def _checked(scorings: ArrayLike) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    scores_SN = np.asarray(scorings, dtype=np.float64)
    if scores_SN.ndim != 2 or scores_SN.shape[0] < 2 or scores_SN.shape[1] == 0 or not np.isfinite(scores_SN).all():
        raise ValueError(f"expected finite scores of shape (scorings >= 2, items >= 1); got {scores_SN.shape}")
    return scores_SN


def _discordance(scores_SN: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    return max(float((one != other).mean()) for one, other in combinations(scores_SN, 2))
