"""MAM adapter: a prefix on attention and a scaled parallel adapter on the feed-forward sublayer (He et al. 2021).

    Attn(q, [P_k; K], [P_v; V])    and    h <- h + s (W_up relu(W_down x + b_down) + b_up)

arXiv:2110.04366, section 4.6: a short prefix spends few parameters on attention, the rest goes to the feed-forward
sublayer, which uses it best. This is the union of `prefix` and `parallel`, with the paper's prefix (p = 30, m = 800)
and scale (s = 4); its width of 512 is for summarisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import Self

from keeptune.core.shape import ModelShape
from keeptune.engine.places import Placed
from keeptune.methods import Cost, Method
from keeptune.methods._layers import Layers
from keeptune.methods.parallel import Parallel
from keeptune.methods.prefix import Prefix, Shift, settled_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MAM(Method):
    """A prefix and a parallel adapter under one name."""

    identity_at_start: ClassVar[bool] = False

    length: int = Field(30, ge=1, le=4096, description="Virtual tokens of the prefix.")
    hidden: int | None = Field(800, ge=1, le=65536, description="Width of the prefix's training network; null: none.")
    positions: Shift | None = Field(None, description="Whether the prefix takes positions; null: if it can.")
    bottleneck: int = Field(64, ge=1, le=65536, description="Inner width of the parallel adapter.")
    input: Literal["residual", "normed"] = Field("residual", description="What the parallel adapter reads.")
    scale: Annotated[float, Field(gt=0)] | Literal["learned"] = Field(4.0, description="Its scale, or learned from 1.")
    layers: Layers = Field("all", description="The blocks by index, or all.")

    @property
    def prefix(self) -> Prefix:
        """The part on attention."""
        return Prefix(length=self.length, hidden=self.hidden, positions=self.positions, layers=self.layers)

    @property
    def parallel(self) -> Parallel:
        """The part on the feed-forward sublayer."""
        return Parallel(bottleneck=self.bottleneck, input=self.input, scale=self.scale, layers=self.layers)

    def adjusted(self, model: PreTrainedModel) -> Self:
        """With positions that the model has."""
        return self.model_copy(update={"positions": settled_positions(model, self.positions)})

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """Those of the prefix, then those of the parallel adapter."""
        return [*self.prefix.place(model), *self.parallel.place(model)]

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Each part as it starts alone."""
        first = len(placed) - len(self.parallel.place(model))
        self.prefix.start(model, placed[:first], seed)
        self.parallel.start(model, placed[first:], seed)

    def cost(self, shape: ModelShape) -> Cost:
        """The sum of the two."""
        prefix, parallel = self.prefix.cost(shape), self.parallel.cost(shape)
        return Cost(
            prefix.trainable_parameters + parallel.trainable_parameters,
            prefix.stored_bytes + parallel.stored_bytes,
            held=parallel.held,
            held_per_row=prefix.held_per_row,
        )

    def takes(self, shape: ModelShape, tokenizer: Any) -> int:
        """Those of the prefix."""
        return self.prefix.takes(shape, tokenizer)

    def saved_settings(self) -> dict[str, Any]:
        """Without the prefix's network, which no file keeps."""
        return {**self.to_dict(), "hidden": None, "positions": self.prefix.saved_settings()["positions"]}
