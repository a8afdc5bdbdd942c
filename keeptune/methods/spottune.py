"""SpotTune: for each row, which blocks are tuned and which stay frozen (Guo et al. 2019, arXiv:1811.08737).

    x_l = (1 - a_l) F_l(x_{l-1}) + a_l F'_l(x_{l-1}),    a_l in {0, 1} from a policy that sees the prompt alone

One decision per row and block, made before the row is computed and kept while it is written (`engine/decisions.py`).
The policy is a small network on the mean embedding of the prompt, or of the patches of an image (`_policy.py`). An
encoder's prompt is its whole text. The tuned branch F' is the block with LoRA on every linear map, or a trainable copy
of the block (`_branches.py`). Both begin as F, so nothing changes at the start, and the policy has no gradient until
the branches differ. The gate stands on each map of a block, so its gradient is that of the gate where the row passed;
the paper's is the difference of the two branches' outputs.

With `compact: k`, training adds (sum_l m_l - k)^2 and -m_l log m_l over the blocks, m_l the mean of a_l over the
micro-batch, and for its last fifth settles on the k blocks that were tuned most often, for every row. A file then holds
these alone, and they merge into the base: a stock checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from keeptune.core.counting import counted
from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.compositions import Gate
from keeptune.engine.named_generator import named_generator
from keeptune.engine.places import ModuleOutput, Placed
from keeptune.methods import Cost, Method
from keeptune.methods.lora import LoRA
from keeptune.methods.norm import Norm
from keeptune.models.anatomy import Anatomy, anatomy_of, norms_over_width
from keeptune.models.families import linear_places

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

SETTLES_AT = 0.8
"""Share of the steps after which decisions are counted anew, and a compact one settles."""
SMALLEST = 1e-6


class SpotTune(Method):
    """A policy per row over tuned and frozen blocks."""

    branch: Literal["lora", "copy"] = Field("lora", description="The tuned branch: LoRA, or a copy of the block.")
    rank: int = Field(16, ge=1, le=4096, description="Of LoRA; its scale is 2.")
    dropout: float = Field(0.0, ge=0, lt=1, description="On the input of LoRA, in training.")
    hidden: int = Field(64, ge=1, le=65536, description="Inner width of the policy.")
    bias: float = Field(1.0, description="How far the policy leans towards tuning at the start.")
    temperature: float = Field(5.0, gt=0, description="tau of the Gumbel-softmax.")
    last_temperature: float | None = Field(None, gt=0, description="tau at the end of training; null: as at the start.")
    compact: int | None = Field(None, ge=1, description="k: settle on k blocks for every row; null: each its own.")
    budget: float = Field(0.1, ge=0, description="With compact: weight of (sum m - k)^2.")
    entropy: float = Field(0.1, ge=0, description="With compact: weight of the sum of -m log m.")

    @property
    def merges(self) -> bool:
        """Only where every row tunes the same blocks."""
        return self.compact is not None

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """The policy, then the branches, each behind the gate of its block."""
        from keeptune.engine.decisions import Decisions
        from keeptune.methods._branches import Branch
        from keeptune.methods._policy import Policy

        anatomy = anatomy_of(model)
        self._check(model, anatomy)
        width = ModelShape.from_config(model.config.to_dict()).width
        policy = Policy(width, self.hidden, len(anatomy.layers), self.temperature)
        places = self._copy(model, anatomy) if self.branch == "copy" else self._lora.place(model)
        branches = [
            Placed(place, Branch(delta, policy, place.layer or 0), Gate(place.layer or 0)) for place, delta, _ in places
        ]
        return [Placed(Decisions(anatomy.body), policy), *branches]

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """The policy from its own generator, LoRA as it starts alone, copies as zero difference."""
        placed[0].delta.start(named_generator(seed, "policy"), self.bias)
        if self.branch == "lora":
            self._lora.start(model, [Placed(place, delta.inner) for place, delta, _ in placed[1:]], seed)

    def cost(self, shape: ModelShape) -> Cost:
        """The policy's D m + m + 2 L m + 2 L, and LoRA or the blocks; tau and 3 L counts are stored too."""
        if self.branch == "lora":
            branches = self._lora.cost(shape).trainable_parameters
        else:
            maps = (linear for _, _, linear in linear_places(shape))
            branches = sum(width * (inputs + (role in shape.biased)) for role, inputs, width in maps)
            branches += shape.norm_width * sum(shape.norms_of(layer) for layer in range(shape.layers))
        count = policy_parameters(shape.width, self.hidden, shape.layers) + branches
        return Cost(count, 4 * (count + 1 + 3 * shape.layers))

    def penalty(self, placed: Sequence[Placed]) -> Tensor | None:
        """The budget of a compact one, until it has settled."""
        gates = placed[0].delta.made()
        if gates is None or self.compact is None:
            return None
        mean = gates.mean(0)
        entropy = -(mean * mean.clamp(min=SMALLEST).log()).sum()
        penalty: Tensor = self.budget * (mean.sum() - self.compact).square() + self.entropy * entropy
        return penalty

    def after_step(self, placed: Sequence[Placed], step: int, total: int) -> None:
        """Cools; counts anew for the last fifth; settles."""
        policy = placed[0].delta
        if self.last_temperature is not None:
            policy.tau.fill_(self.temperature * (self.last_temperature / self.temperature) ** (step / total))
        if step != int(SETTLES_AT * total) or policy.settled.any():
            return
        if self.compact is None:
            policy.decisions.zero_()
            return
        policy.settle(self.compact)

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """The branches of the settled blocks, into the weights."""
        from keeptune.methods._branches import Difference
        from keeptune.methods._low_rank import fold_updates
        from keeptune.methods._norm_shift import NormShift

        if not placed[0].delta.settled.any():
            raise PlanError(
                "this SpotTune has not settled on its blocks: each row still chooses its own.",
                code="E-ADAPTER-MERGE",
                fix="Train it to the end; it settles for the last fifth of the steps.",
            )
        inside = [Placed(place, delta.inner) for place, delta, _ in placed[1:] if not delta.closed]
        norms = [part for part in inside if isinstance(part.delta, NormShift)]
        maps = [part for part in inside if not isinstance(part.delta, NormShift)]
        fold_updates(model, maps)
        Norm().fold(model, norms)
        for place, delta, _ in maps:
            if isinstance(delta, Difference):
                delta.fold_bias(model.get_submodule(place.path))

    def _check(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        if anatomy.kind == "encoder_decoder":
            raise PlanError(
                f"SpotTune makes one decision for a row, and a '{anatomy.family}' computes a row in two parts.",
                code="E-METHOD-FAMILY",
                where={"key": "method"},
                fix="Use `lora`, `bottleneck` or `freeze` on this model.",
            )
        if not anatomy.registry:
            raise PlanError(
                f"SpotTune decides row by row, and in a '{anatomy.family}' the maps of queries and keys also "
                "project the distances of tokens, once for all rows.",
                code="E-METHOD-FAMILY",
                where={"key": "method"},
                fix="Use `lora`, `bottleneck` or `freeze` on this model.",
            )
        if self.compact is not None and self.compact > len(anatomy.layers):
            raise PlanError(
                f"`compact` asks for {counted(self.compact, 'block')}; this model has {len(anatomy.layers)}.",
                code="E-METHOD-LAYER",
                where={"key": "compact"},
                fix="Name fewer.",
            )

    @property
    def _lora(self) -> LoRA:
        return LoRA(rank=self.rank, dropout=self.dropout)

    def _copy(self, model: PreTrainedModel, anatomy: Anatomy) -> list[Placed]:
        """The difference of every linear map and norm of the blocks."""
        from keeptune.methods._branches import Difference
        from keeptune.methods._low_rank import widths
        from keeptune.methods._norm_shift import NormShift

        placed = []
        for layer in anatomy.layers:
            for path in layer.linear.values():
                module: Any = model.get_submodule(path)
                difference = Difference(*widths(module, path), biased=module.bias is not None)
                placed.append(Placed(ModuleOutput(path, layer.index), difference))
            for path in norms_over_width(layer).values():
                shift = NormShift(model.get_submodule(path), biased=True)
                placed.append(Placed(ModuleOutput(path, layer.index), shift))
        return placed


def policy_parameters(width: int, hidden: int, layers: int) -> int:
    """D m + m + 2 L m + 2 L."""
    return width * hidden + hidden + 2 * layers * hidden + 2 * layers
