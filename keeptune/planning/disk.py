"""Bytes that a train stage writes: commits that resume it, snapshots, and what it leaves."""

from __future__ import annotations

from keeptune.core.cost import Cost
from keeptune.planning.memory import Base


def stage_bytes(
    base: Base, cost: Cost, *, in_place: bool, moments: float, commits: int, snapshots: int
) -> dict[str, int]:
    """What the disk must hold at the worst moment.

    Args:
        base: the model.
        cost: of the method.
        in_place: whether the output is a whole model.
        moments: bytes of the optimiser's state per trained parameter.
        commits: that are kept; one more is there while it is written.
        snapshots: checkpoints along the way.

    Returns:
        `commits` (float32 masters and moments), `snapshots`, `output` and their sum `total`.
    """
    output = base.bytes if in_place else cost.stored_bytes
    state = round((4 + moments) * cost.trainable_parameters)
    parts = {"commits": (commits + 1) * state, "snapshots": snapshots * output, "output": output}
    return {**parts, "total": sum(parts.values())}
