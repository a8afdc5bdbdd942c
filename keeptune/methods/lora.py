"""LoRA: a low-rank update beside frozen linear maps (Hu et al. 2021, arXiv:2106.09685).

    y = W x + b + s B A drop(x),    A: rank x in,  B: out x rank,  s = alpha / rank

A starts as U(-1/sqrt(in), 1/sqrt(in)) (`kaiming_uniform(a=sqrt 5)`), B as zero, so nothing changes at the start. With
`rslora`, s = alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732). The paper adapts the query and value maps;
the default here is every linear map of the blocks, never the head: a head that shares its matrix with the embedding
could not be merged without changing the embedding too. A fused map (GPT-2's `c_attn`) gets one update as a whole.

`init` starts A and B from the weight itself (`_lora_starts.py`), `embedding` adds an update of the token embedding
(`_lora_embedding.py`). LoRA+ (Hayou et al. 2024, arXiv:2402.12354) is the optimiser's `rates: {lora_B: 16}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from keeptune.core.shape import Linear, ModelShape, distinct_inputs
from keeptune.engine.named_generator import named_generator
from keeptune.engine.places import ModuleOutput, Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods._low_rank_settings import Alpha, Alphas, Dropout, Rank, Ranks, RsLoRA, Targets
from keeptune.models.anatomy import anatomy_of
from keeptune.models.families import family_of_shape, linear_places

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDING = "embedding"
"""What patterns call the token embedding."""


class LoRA(Method):
    """Low-rank updates of linear maps; they merge exactly into the weights."""

    mergeable: ClassVar[bool] = True

    rank: Rank = 16
    alpha: Alpha = None
    dropout: Dropout = 0.0
    targets: Targets = "all"
    rslora: RsLoRA = False
    rank_pattern: Ranks = Field({})
    alpha_pattern: Alphas = Field({})
    init: Literal["zero", "pissa", "olora"] = Field("zero", description="B zero, or A and B parts of the weight.")
    embedding: bool = Field(False, description="Update the token embedding too.")

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One delta on the output of each target."""
        from keeptune.methods._lora_embedding import LowRankEmbedding
        from keeptune.methods._lora_starts import Shifted
        from keeptune.methods._low_rank import LowRank, widths

        anatomy = anatomy_of(model)
        kind = LowRank if self.init == "zero" else Shifted
        roles = {path: (role, layer.index) for layer in anatomy.layers for role, path in layer.linear.items()}
        placed = []
        for path in anatomy.linear_paths(self.targets):
            role, layer = roles[path]
            rank, scale = self._rank(path, role), self._scale(path, role)
            inputs, outputs = widths(model.get_submodule(path), path)
            delta = kind(inputs, outputs, rank=rank, scale=scale, dropout=self.dropout)
            placed.append(Placed(ModuleOutput(path, layer), delta))
        if self.embedding:
            path = anatomy.embedding
            rank, scale = self._rank(path, EMBEDDING), self._scale(path, EMBEDDING)
            placed.append(
                Placed(ModuleOutput(path), LowRankEmbedding(model.get_submodule(path), rank=rank, scale=scale))
            )
        return placed

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """A uniform, each place from its own generator, and B zero; or as `init` says."""
        from torch import nn

        from keeptune.methods._lora_embedding import LowRankEmbedding

        for place, delta, _ in placed:
            generator = named_generator(seed, place.path)
            if isinstance(delta, LowRankEmbedding):
                delta.start(generator)
                continue
            if self.init != "zero":
                delta.start(model.get_submodule(place.path), self.init)
                continue
            nn.init.kaiming_uniform_(delta.lora_A, a=math.sqrt(5), generator=generator)
            nn.init.zeros_(delta.lora_B)

    def cost(self, shape: ModelShape) -> Cost:
        """Sum of rank * (in + out) over the targets, and rank * (V + D) for the embedding.

        A start that is counted from itself stores the targets' share twice.
        """
        low_rank = sum(rank * (inputs + outputs) for rank, inputs, outputs in self.sizes(shape))
        rank = self._rank(family_of_shape(shape).embedding, EMBEDDING) if self.embedding else 0
        embedding = rank * (shape.vocabulary + shape.width)
        stored = low_rank * (1 if self.init == "zero" else 2) + embedding
        return Cost(low_rank + embedding, 4 * stored, held=self.held(shape))

    def sizes(self, shape: ModelShape) -> list[tuple[int, int, int]]:
        """Rank, inputs and outputs of every target on a model of that shape."""
        maps = targeted_maps(shape, self.targets)
        return [(self._rank(path, role), inputs, outputs) for path, (role, inputs, outputs) in maps]

    def held(self, shape: ModelShape, per_rank: int = 1) -> Held:
        """Numbers per token: each different input once, and `per_rank` times the rank of each target.

        With dropout every target has an input of its own, and one byte of mask beside it. The fused body computes
        inputs and masks again.
        """
        maps = targeted_maps(shape, self.targets)
        inputs: float = sum(distinct_inputs(layer) for layer in by_block(maps))
        if self.dropout:
            inputs = 1.5 * sum(linear.inputs for _, linear in maps)
        ranks = per_rank * sum(rank for rank, _, _ in self.sizes(shape))
        return Held(inputs + ranks, ranks)

    def saved_settings(self) -> dict[str, Any]:
        """With alpha as a number; a start that is counted from itself is a plain LoRA of twice the rank."""
        plain = {**self.to_dict(), "alpha": float(self.alpha or 2 * self.rank)}
        if self.init == "zero":
            return plain
        # s = alpha / rank, or alpha / sqrt(rank), stays what it was.
        factor = math.sqrt(2) if self.rslora else 2
        return {
            **plain,
            "init": "zero",
            "rank": 2 * self.rank,
            "alpha": factor * plain["alpha"],
            "rank_pattern": {key: 2 * rank for key, rank in self.rank_pattern.items()},
            "alpha_pattern": {key: factor * alpha for key, alpha in self.alpha_pattern.items()},
        }

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """W + s B A in float32, cast once to the dtype of W."""
        from keeptune.methods._low_rank import fold_updates, require_untied

        require_untied(model, [model.get_submodule(place.path) for place, _, _ in placed])
        fold_updates(model, placed)

    def _rank(self, path: str, role: str) -> int:
        return int(self._of(self.rank_pattern, path, role, self.rank))

    def _scale(self, path: str, role: str) -> float:
        alpha = self._of(self.alpha_pattern, path, role, self.alpha or 2 * self.rank)
        rank = self._rank(path, role)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    @staticmethod
    def _of(pattern: Mapping[str, float], path: str, role: str, usual: float) -> float:
        for key, value in pattern.items():
            if _names(key, path, role):
                return value
        return usual


def targeted_maps(shape: ModelShape, targets: Literal["all"] | Sequence[str]) -> list[tuple[str, Linear]]:
    """Path and widths of the linear maps that `targets` names, on a model of that shape.

    Raises:
        PlanError: a target that matches nothing (E-MODEL-TARGET).
    """
    found, unmatched = [], set() if targets == "all" else set(targets)
    for _, path, linear in linear_places(shape):
        named = {target for target in targets if _names(target, path, linear.role)}
        if targets == "all" or named:
            unmatched -= named
            found.append((path, linear))
    for target in unmatched:
        shape.linears([target])
    return found


def by_block(maps: Sequence[tuple[str, Linear]]) -> list[list[Linear]]:
    """The maps of `targeted_maps` block by block: the number in a path is that of its block."""
    blocks: dict[str, list[Linear]] = {}
    for path, linear in maps:
        block = path[: re.search(r"\.\d+\.", path).end()]  # type: ignore[union-attr]
        blocks.setdefault(block, []).append(linear)
    return list(blocks.values())


def held_inputs(maps: Sequence[tuple[str, Linear]]) -> int:
    """What the fused body holds where a delta is no low-rank update: inputs that it would compute again, not o's."""
    return sum(distinct_inputs(layer, besides="o") for layer in by_block(maps))


def _names(target: str, path: str, role: str) -> bool:
    """Whether a target (role, module name, or path) is this linear map."""
    return target in (role, role.removeprefix("cross_"), path) or path.endswith(f".{target}")
