"""P-tuning v2: trained keys and values in every layer, without a network that makes them (Liu et al. 2021).

    Attn(q, [P_k; K], [P_v; V]),    P_k, P_v: p x G x K per layer, N(0, 1) at the start

arXiv:2110.07602. It is `prefix` with the paper's choices: no reparameterisation by default, dropout on keys and values,
short prefixes for classification (8 to 16) and long ones for labelling (about 100). The paper's classification head is
the method `head` beside it, in a list; alone, the answer stays text. It wants a learning rate of 0.005 to 0.03. A file
of it is one of `prefix`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from keeptune.core.shape import ModelShape
from keeptune.engine.places import Placed
from keeptune.methods import Cost, Method
from keeptune.methods._layers import Layers
from keeptune.methods.prefix import Prefix, Shift, settled_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PTuningV2(Method):
    """A prefix with the choices of P-tuning v2."""

    identity_at_start: ClassVar[bool] = False

    length: int = Field(16, ge=1, le=4096, description="Virtual tokens p.")
    positions: Shift | None = Field(None, description="Where the text begins: at p, or at 0; null: at p if it can.")
    layers: Layers = Field("all", description="The layers by index, or all.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout on keys and values, in training.")

    @property
    def prefix(self) -> Prefix:
        """What this is."""
        return Prefix(
            length=self.length, hidden=None, positions=self.positions, layers=self.layers, dropout=self.dropout
        )

    def adjusted(self, model: PreTrainedModel) -> Self:
        """With positions that the model has."""
        return self.model_copy(update={"positions": settled_positions(model, self.positions)})

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """As the prefix."""
        return self.prefix.place(model)

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Normal."""
        self.prefix.start(model, placed, seed)

    def cost(self, shape: ModelShape) -> Cost:
        """2 p G K per layer."""
        return self.prefix.cost(shape)

    def takes(self, shape: ModelShape, tokenizer: Any) -> int:
        """Those of the prefix."""
        return self.prefix.takes(shape, tokenizer)

    def saved_settings(self) -> dict[str, Any]:
        """Those of the prefix, whose files others read."""
        return self.prefix.saved_settings()
