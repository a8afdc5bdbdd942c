"""One file per optimiser; learning rate, schedule and clipping are the same for all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from keeptune.core.errors import PlanError, did_you_mean
from keeptune.core.spec import Spec

if TYPE_CHECKING:
    import torch

# (name, parameter); the names say what decays.
Named = Sequence[tuple[str, "torch.nn.Parameter"]]


class Optimizer(Spec, shelf="keeptune.stages.optimizers"):
    """A rule that turns gradients into updates, with its rate at every step.

    Attributes:
        moments: bytes of its state per trained parameter.
    """

    moments: ClassVar[float] = 8

    lr: float = Field(2e-4, gt=0, le=1e12, description="peak learning rate")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="how the rate falls after warmup")
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps over which the rate rises")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decay of matrices (never of biases and norms)")
    clip: float = Field(1.0, ge=0, description="largest norm of the whole gradient; 0: not clipped")
    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="factor on lr by a part of a parameter's name, such as {lora_B: 16}"
    )

    def factor(self, step: int, total: int) -> float:
        """Share of the peak rate at `step` (from 0) of `total`: (step + 1) / warmup steps, then the schedule."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        left = 1 - (step - warm) / max(1, total - warm)
        return max(0.0, left if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))

    def groups(self, parameters: Named) -> list[dict[str, Any]]:
        """Matrices decay, vectors and scalars do not; parameters with a factor in `rates` have their own rate.

        A key of `rates` is a part of a parameter's dotted name: `lora_B`, `q_proj`, `5` (a layer). The first one that
        matches counts.

        Raises:
            PlanError: a key that no parameter has (E-TRAIN-RATES).
        """
        groups: dict[tuple[float, bool], list[Any]] = {(1.0, True): [], (1.0, False): []}
        parts_of = {name: re.split(r"[./:]", name) for name, _ in parameters}
        known = {part for parts in parts_of.values() for part in parts}
        for key in self.rates.keys() - known:
            raise PlanError(
                f"no parameter that trains has '{key}' in its name.",
                code="E-TRAIN-RATES",
                where={"key": f"optimizer.rates.{key}"},
                fix=did_you_mean(key, known),
            )
        for name, parameter in parameters:
            factor = next((rate for key, rate in self.rates.items() if key in parts_of[name]), 1.0)
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
        return [
            {"params": members, "lr": factor * self.lr, "weight_decay": self.weight_decay if decays else 0.0}
            for (factor, decays), members in groups.items()
            if members
        ]

    def stand_in(self, parameters: Named) -> Optimizer | None:
        """The optimizer that takes its place on this device; None: itself."""
        return None

    def build(self, parameters: Named) -> torch.optim.Optimizer:
        """The optimiser over float32 parameters."""
        raise NotImplementedError
