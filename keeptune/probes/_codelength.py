"""Online codelength: bits to send the answers to somebody who has the states (Voita & Titov 2020, arXiv:2003.12298).

The training texts come in blocks that end at 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.25, 12.5, 25, 50 and 100 percent. The
first is sent with a uniform code, each other one with a probe that has learned all blocks before it:

    L = sum_{first block} log2 C_i - sum_blocks sum_i log2 p(answer_i | state_i; probe of the blocks before)

C_i is the number of answers that are possible: the classes, or the words of the sentence. Compression is
sum_i log2 C_i / L: 1 when the states help nothing.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch

from keeptune.probes import Probe
from keeptune.probes._material import Material
from keeptune.probes._regime import chances, fit

SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Codelength:
    """What sending the answers costs.

    Attributes:
        bits: L.
        uniform: bits without the states.
    """

    bits: float
    uniform: float

    @property
    def compression(self) -> float:
        """Uniform over L."""
        return self.uniform / self.bits


def codelength(probe: Probe, classes: int, train: Material, dev: Material, seed: int) -> Codelength:
    """Sends the answers of `train`, in an order that the seed draws; `dev` ends each probe's learning."""
    order = torch.randperm(train.texts, generator=torch.Generator().manual_seed(seed)).tolist()
    ends = block_ends(train.texts)
    first = train.part(order[: ends[0]])
    bits = uniform_bits(first, classes)
    for start, end in itertools.pairwise(ends):
        known, block = train.part(order[:start]), train.part(order[start:end])
        if len(known.asked()) == 0:
            bits += uniform_bits(block, classes)
        elif len(block.asked()):
            fitted = fit(probe, classes, known, dev, seed)
            bits -= float(chances(fitted.net, block).double().sum()) / math.log(2)
    return Codelength(bits, uniform_bits(train, classes))


def block_ends(texts: int) -> list[int]:
    """Where the blocks end, in texts; a block has at least one."""
    return sorted({max(1, math.floor(share * texts)) for share in SHARES})


def uniform_bits(material: Material, classes: int) -> float:
    """Sum of log2 of how many answers are possible, over the units that are asked."""
    if material.kind == "labels":
        return len(material.asked()) * math.log2(classes)
    lengths = torch.tensor(material.lengths(), dtype=torch.float64)[material.text_of()]
    return float(lengths[material.scored()].log2().sum())
