"""AdaLoRA: a budget of ranks that moves to the maps where it is worth most (Zhang et al. 2023, arXiv:2303.10512).

    y = W x + b + s P diag(lambda) Q drop(x),    s = alpha / (r_0 + 1e-5)
    b(t) = b_T + (b_0 - b_T) (1 - (t - t_i) / (T - t_f - t_i))^3    between t_i and T - t_f

Every map starts with r_0 triplets (P and Q normal with standard deviation 0.02, lambda zero). After each step the
entries' importance is brought up to date (`_importance.py`); every few steps lambda of the least important triplets,
over all maps together, is set to zero, so that b(t) remain. A pruned triplet still gets gradients and may come back
until t_f steps before the end; then the pattern is fixed.

gamma * mean(||P'P - 1||, ||QQ' - 1||) keeps P and Q near orthogonal (not squared, as in the authors' code). It is part
of training and of no evaluation. Files hold the surviving triplets only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from keeptune.core.shape import ModelShape
from keeptune.engine.named_generator import named_generator
from keeptune.engine.places import ModuleOutput, Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods._low_rank_settings import Dropout, Targets
from keeptune.methods.lora import LoRA
from keeptune.models.anatomy import anatomy_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from keeptune.methods._importance import Triplets

DEVIATION = 0.02


class AdaLoRA(Method):
    """LoRA whose ranks are allocated while it trains."""

    mergeable: ClassVar[bool] = True

    rank: int = Field(8, ge=1, le=4096, description="Mean rank per map at the end.")
    initial_rank: int | None = Field(None, ge=1, le=8192, description="r_0; one and a half times the rank when null.")
    alpha: float | None = Field(None, gt=0, description="Scale times r_0; 2 * r_0 when null.")
    dropout: Dropout = 0.0
    targets: Targets = "all"
    warmup: float = Field(0.1, ge=0, lt=1, description="t_i, as a share of the steps: the whole budget.")
    settled: float = Field(0.4, ge=0, lt=1, description="t_f, as a share of the steps: the pattern is fixed.")
    every: int = Field(10, ge=1, description="Steps between two allocations.")
    beta1: float = Field(0.85, gt=0, lt=1, description="b1, of the mean sensitivity.")
    beta2: float = Field(0.85, gt=0, lt=1, description="b2, of its mean deviation.")
    orthogonality: float = Field(0.1, ge=0, description="gamma.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup + self.settled >= 1:
            raise ValueError("'warmup' and 'settled' leave no steps between them")
        if self.start_rank < self.rank:
            raise ValueError("'initial_rank' is smaller than 'rank'")
        return self

    @property
    def start_rank(self) -> int:
        """r_0."""
        return self.initial_rank or (3 * self.rank + 1) // 2

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One delta on the output of each target."""
        from keeptune.methods._importance import Triplets
        from keeptune.methods._low_rank import widths

        anatomy = anatomy_of(model)
        layers = {path: layer.index for layer in anatomy.layers for path in layer.linear.values()}
        scale = (self.alpha or 2 * self.start_rank) / (self.start_rank + 1e-5)
        placed = []
        for path in anatomy.linear_paths(self.targets):
            inputs, outputs = widths(model.get_submodule(path), path)
            delta = Triplets(inputs, outputs, rank=self.start_rank, scale=scale, dropout=self.dropout)
            placed.append(Placed(ModuleOutput(path, layers[path]), delta))
        return placed

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """P and Q normal, each place from its own generator; lambda zero."""
        from torch import nn

        for place, delta, _ in placed:
            generator = named_generator(seed, place.path)
            nn.init.normal_(delta.lora_A, 0.0, DEVIATION, generator=generator)
            nn.init.normal_(delta.lora_B, 0.0, DEVIATION, generator=generator)

    def cost(self, shape: ModelShape) -> Cost:
        """Sum of r_0 * (in + out + 1) over the targets; at the end `rank` of r_0 remain."""
        low_rank = LoRA(rank=self.start_rank, targets=self.targets, dropout=self.dropout)
        count = sum(rank * (inputs + outputs + 1) for rank, inputs, outputs in low_rank.sizes(shape))
        return Cost(count, 4 * count, held=self._held(low_rank, shape))

    def _held(self, low_rank: LoRA, shape: ModelShape) -> Held:
        """As LoRA; the modules hold two inner products where the fused body holds one."""
        return Held(low_rank.held(shape, per_rank=2).modules, low_rank.held(shape).fused)

    def penalty(self, placed: Sequence[Placed]) -> Tensor | None:
        """Gamma times the mean distance from orthogonality."""
        import torch

        if not self.orthogonality:
            return None
        distances = [distance for _, delta, _ in placed if delta.rank for distance in delta.skew()]
        return self.orthogonality * torch.stack(distances).mean() if distances else None

    def after_step(self, placed: Sequence[Placed], step: int, total: int) -> None:
        """Importance, budget, mask."""
        deltas = [delta for _, delta, _ in placed]
        first, last = round(self.warmup * total), total - round(self.settled * total)
        if step < last:
            for delta in deltas:
                delta.observe(self.beta1, self.beta2)
        if first < step <= last and (step % self.every == 0 or step == last):
            allocate(deltas, self.budget(sum(delta.rank for delta in deltas), len(deltas), step, first, last))
        elif step > last:
            for delta in deltas:
                delta.prune()

    def budget(self, initial: int, maps: int, step: int, first: int, last: int) -> int:
        """b(t) for t_i < t <= T - t_f."""
        goal = min(initial, self.rank * maps)
        return int((initial - goal) * (1 - (step - first) / (last - first)) ** 3 + goal)

    def saved_settings(self) -> dict[str, Any]:
        """With r_0 and alpha as numbers."""
        alpha = float(self.alpha or 2 * self.start_rank)
        return {**self.to_dict(), "initial_rank": self.start_rank, "alpha": alpha}

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """W + s P diag(lambda) Q in float32, cast once to the dtype of W."""
        from keeptune.methods._low_rank import fold_updates

        fold_updates(model, placed)


def allocate(deltas: Sequence[Triplets], budget: int) -> None:
    """Prunes all triplets whose score is not above that of the least important ones beyond the budget.

    Before any gradient was seen there is nothing to go by, and nothing is pruned.
    """
    import torch

    scores = [delta.scores() for delta in deltas]
    together = torch.cat([score.cpu() for score in scores])
    surplus = len(together) - budget
    if surplus < 1 or not together.any():
        return
    threshold = torch.kthvalue(together, surplus).values
    for delta, score in zip(deltas, scores, strict=True):
        delta.alive.copy_(score > threshold.to(score.device))
        delta.prune()
