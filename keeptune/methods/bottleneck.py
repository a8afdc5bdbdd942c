"""Bottleneck adapters: a two-layer network behind a sublayer (Houlsby et al. 2019, arXiv:1902.00751).

    h <- h + W_up f(W_down h + b_down) + b_up,    W_down: r x D,  W_up: D x r

`houlsby` puts one behind attention and one behind the feed-forward sublayer, each before the residual is added; in
blocks that normalise a sublayer's output (Gemma 2), before that norm. A decoder with cross attention gets a third one
behind that, unless `cross` is false. `pfeiffer` puts one behind the block, where it
reads and joins the sum of the residual stream and the feed-forward output (Pfeiffer et al. 2020, arXiv:2005.00247).

The paper also trains the layer norms. With `train_layernorm`, each norm of the block gets y <- y * (1 + g) + b beside
the frozen base, b only where the norm has a bias. The papers start both matrices near zero (std 0.01); here W_up starts
as exactly zero, so nothing changes at the start, unless `init` is `normal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from keeptune.core.shape import ModelShape
from keeptune.engine.named_generator import named_generator
from keeptune.engine.places import ModuleOutput, Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods._choices import Activation
from keeptune.methods._layers import Layers, chosen_layers
from keeptune.models.anatomy import Layer, anatomy_of, norms_over_width

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEVIATION = 0.01
"""Of the paper's start."""


class Bottleneck(Method):
    """A small network behind the sublayers, the model frozen."""

    mergeable: ClassVar[bool] = False

    bottleneck: int = Field(64, ge=1, le=65536, description="Inner width r.")
    placement: Literal["houlsby", "pfeiffer"] = Field("houlsby", description="Behind both sublayers, or the block.")
    activation: Activation = Field("gelu", description="The nonlinearity f.")
    init: Literal["identity", "normal"] = Field("identity", description="W_up zero, or both matrices near zero.")
    train_layernorm: bool = Field(False, description="Train gains and biases of the blocks' norms too.")
    cross: bool = Field(True, description="With houlsby: behind cross attention too, where there is any.")
    layers: Layers = Field("all", description="The blocks by index, or all.")

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One network per block or one per sublayer, and with `train_layernorm` one affine map per norm."""
        from keeptune.methods._affine import affine_of
        from keeptune.methods._bottleneck import TwoLayer

        anatomy, width = anatomy_of(model), ModelShape.from_config(model.config.to_dict()).width
        placed = []
        for index in chosen_layers(self.layers, len(anatomy.layers)):
            layer = anatomy.layers[index]
            for path in self._paths(layer):
                network = TwoLayer(width, self.bottleneck, activation=self.activation, reads="h")
                placed.append(Placed(ModuleOutput(path, index), network))
            if self.train_layernorm:
                placed += [
                    Placed(ModuleOutput(path, index), affine_of(model, path))
                    for path in norms_over_width(layer).values()
                ]
        return placed

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Each network from its own generator; norms as they are."""
        from keeptune.methods._bottleneck import TwoLayer

        for place, delta, _ in placed:
            if isinstance(delta, TwoLayer):
                delta.start(named_generator(seed, place.path), DEVIATION if self.init == "normal" else None)

    def cost(self, shape: ModelShape) -> Cost:
        """Per sublayer, or once per block, 2 D r + D + r; and the norms."""
        count, held = 0, 0
        for layer in chosen_layers(self.layers, shape.layers):
            crossing = self.cross and 0 < shape.encoder_layers <= layer
            networks = 2 + crossing if self.placement == "houlsby" else 1
            count += networks * two_layer_parameters(shape.width, self.bottleneck)
            held += networks * (shape.width + 2 * self.bottleneck)
            if self.train_layernorm:
                count += shape.norms_of(layer) * shape.norm_width
                held += shape.norms_of(layer) * shape.width
        return Cost(count, 4 * count, held=Held(held))

    def _paths(self, layer: Layer) -> list[str]:
        if self.placement == "pfeiffer":
            return [layer.block]
        return [path for name, path in layer.sublayers.items() if self.cross or name != "cross"]


def two_layer_parameters(width: int, inner: int) -> int:
    """2 D r + D + r."""
    return 2 * width * inner + width + inner
