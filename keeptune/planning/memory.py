"""State and peak of a training step in bytes, from shapes alone.

P parameters of the base, P_t trained ones, b bytes of the base's dtype. The state is there all the time:

    weights     b P; in 4 bits 0.516 bytes for each weight of the blocks' matrices, b for everything else
    adapter     4 P_t for a method that adds to the base
    masters     4 P_t in float32 beside narrow weights that train themselves
    moments     8 P_t for AdamW (2 P_t in 8 bits, nearly nothing for Adafactor)
    reference   b P for a KL term, when the trained method cannot be taken off: a second copy; or, kept, b D for each
                token that is compared, and the head as it was where the base trains; 4 P_t for the start that L2-SP
                pulls to, and as much again for EWC's importance

With 4 P_t for gradients that is the 16 P and 2 P + 16 P_t of the textbooks. Those leave out what is often larger, and
what comes and goes: a step needs the most at one of three moments.

    loss        state + activations + one block of logits
    backward    state + activations + what one layer's backward pass needs for itself + gradients so far
    update      state + gradients

Activations: `activations.py`. The process itself, interpreter and libraries, is a term of its own, which
is measured where it runs; its first steps add `FIRST_STEP` to it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from keeptune.core.cost import Cost, Held
from keeptune.core.shape import ModelShape, distinct_inputs
from keeptune.planning.activations import checkpointed_bytes, kept_bytes

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
HOLES = 0.5
"""Measured share of the activations: `python -m benchmarks.memory_model`. Blocks above 32 MiB leave no holes."""
HOLES_TWICE = 3
"""Measured too, in layers: one that is computed again does not fit into the holes of the one before it."""

FIRST_STEP = 44 * 2**20
"""What the first steps add to a process on a CPU, whatever the model: `python -m benchmarks.first_step`."""

Reference = Literal["none", "off", "kept", "copy"]

LOGITS_ON_GPU = {"logits_at_once": 2**28, "logits_in_cache": 2**25}
"""Of a `Step` on a GPU: its blocks of logits are larger than a processor's."""


@dataclass(frozen=True)
class Step:
    """What decides the memory of a training step, beside model and method.

    Attributes:
        tokens: of the largest micro-batch, virtual ones not counted.
        row: length of a row.
        answers: of a row, on average.
        learned: positions in the micro-batch that the loss looks at.
        micro_batches: of one optimiser step.
        checkpointed: layers that are computed twice, the lowest ones.
        moments: bytes of the optimiser's state per trained parameter.
        reference: of a KL term: none, the model with its adapter off, its states computed before, or a copy.
        compared: tokens whose states are kept.
        logits_at_once: bytes of a block of the loss, in the head's dtype.
        logits_in_cache: of these the logits that are in float32 at a time; unset: all.
        anchors: float32 numbers kept for each trained weight by losses that pull to the start.
    """

    tokens: int
    row: float
    learned: int
    micro_batches: int = 1
    checkpointed: int = 0
    moments: float = 8
    reference: Reference = "none"
    compared: int = 0
    logits_at_once: int = 31_000_000
    logits_in_cache: int | None = 2**18
    anchors: int = 0
    answers: float = 1


@dataclass(frozen=True)
class Base:
    """The model as it is loaded."""

    shape: ModelShape
    size: int = 2
    quantized: bool = False

    @property
    def bytes(self) -> int:
        """Of all weights."""
        wide = self.shape.parameters()
        if not self.quantized:
            return self.size * wide
        narrow = self.shape.matrix_parameters
        return round(self.size * (wide - narrow) + NF4_BYTES * narrow)


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for; see the top of this file. `twice` is what a layer that is computed twice makes."""

    weights: int
    trained: int
    moments: int
    reference: int
    gradients: int
    activations: int
    logits: int
    backward: int
    twice: int = 0

    @property
    def state(self) -> int:
        """What is there between two steps."""
        return self.weights + self.trained + self.moments + self.reference

    @property
    def peak(self) -> int:
        """The most that is there at a time, the process itself left out."""
        moments = (self.activations + self.logits, self.activations + self.backward, self.gradients)
        return self.state + max(moments)

    @property
    def resident(self) -> int:
        """What a process on a CPU holds at its peak: the C library keeps holes of freed blocks between the others."""
        return self.peak + round(HOLES * self.activations) + HOLES_TWICE * self.twice

    def to_dict(self) -> dict[str, int]:
        """Plain data, with `state`, `peak` and `resident`."""
        return {**asdict(self), "state": self.state, "peak": self.peak, "resident": self.resident}


def training_memory(base: Base, cost: Cost, step: Step, *, in_place: bool) -> Memory:
    """What a training step needs.

    Args:
        base: the model.
        cost: of the method on it.
        step: batch, losses and optimiser.
        in_place: whether the method trains the base's own weights.
    """
    shape, size, count = base.shape, base.size, cost.trainable_parameters
    rows = step.tokens / step.row
    tokens = step.tokens + cost.added(rows, rows * step.answers)
    row, held = tokens / rows, cost.held or in_place_held(shape)
    kept = tokens * kept_bytes(shape, size, row, held, quantized=base.quantized) + rows * size * cost.held_per_row
    backward = tokens * backward_bytes(shape, size) + widest_matrix(base)
    twice = kept / shape.layers if step.checkpointed else 0
    if step.checkpointed:
        share = step.checkpointed / shape.layers
        # A layer's second pass comes when those above have let go of theirs: it counts where there are none above.
        backward += twice if share == 1 else 0
        kept = (1 - share) * kept + share * tokens * checkpointed_bytes(shape, size)
    casts = 0 if in_place or size == 4 else size * count
    summed = 4 * count if step.micro_batches > 1 else 0
    return Memory(
        weights=base.bytes,
        trained=4 * count if not in_place or size < 4 else 0,
        moments=round(step.moments * count),
        reference=reference_bytes(base, step, in_place=in_place) + 4 * count * step.anchors,
        gradients=4 * count + (size * count if in_place and size < 4 else 0),
        activations=round(kept) + casts + summed,
        logits=logits_bytes(shape, size, step, in_place=in_place),
        backward=round(backward),
        twice=round(twice),
    )


def reference_bytes(base: Base, step: Step, *, in_place: bool) -> int:
    """What a KL term compares with, beside the model that trains."""
    if step.reference == "copy":
        return base.bytes
    if step.reference != "kept":
        return 0
    shape = base.shape
    return base.size * (step.compared * shape.width + (shape.vocabulary * shape.width if in_place else 0))


def in_place_held(shape: ModelShape) -> Held:
    """Of a method that does not say what it holds: what full fine-tuning does, which is more than most."""
    layers = range(shape.layers)
    return Held(sum(distinct_inputs(shape.maps_of(i)) + shape.norms_of(i) * shape.width for i in layers))


def logits_bytes(shape: ModelShape, size: int, step: Step, *, in_place: bool) -> int:
    """One block of logits in the head's dtype, which becomes its gradient, and the few that are in float32 at a time.

    A KL term has a block for each of its two heads, each of half the rows, and five tensors of the few. Where the head
    trains, its gradient is in float32 until the factor of the loss is on it. The learned positions' hidden states and
    their gradient wait beside.
    """
    if not shape.vocabulary:  # an image encoder
        return 0
    heads = 1 if step.reference == "none" else 2
    rows = min(step.learned, max(1, step.logits_at_once // (heads * size * shape.vocabulary)))
    few = rows if step.logits_in_cache is None else min(rows, max(1, step.logits_in_cache // shape.vocabulary))
    block = shape.vocabulary * (heads * size * rows + 4 * few * (1 if heads == 1 else 5))
    head = shape.vocabulary * shape.width * 8 if in_place else 0
    return block + head + 2 * step.learned * shape.width * size


def backward_bytes(shape: ModelShape, size: int) -> float:
    """Per token, what the backward pass of the feed-forward sublayer holds at once: gradients of its inner numbers."""
    return size * 3 * shape.feed_forward + 8 * shape.width


def widest_matrix(base: Base) -> int:
    """A matrix of a base in 4 bits is made wide for the product that needs it."""
    if not base.quantized:
        return 0
    return base.size * max(linear.inputs * linear.outputs for linear in base.shape.linear_maps)
