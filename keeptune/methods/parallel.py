"""Parallel adapters: a two-layer network beside a sublayer, its result scaled (He et al. 2021, arXiv:2110.04366).

    h <- h + s (W_up f(W_down x + b_down) + b_up),    W_down: r x D,  W_up: D x r

x is the residual stream before the sublayer's norm, as in the paper's code for models that normalise first; with
`input: normed` it is what the sublayer itself reads, which is another function (but the same in models that normalise
behind their sublayers, as BERT does). h is the sublayer's output before the
residual is added (in Gemma 2 and 3 before the norm behind it). The paper's best: on the feed-forward sublayer, s = 4.
`scale: learned` makes s a parameter that starts as 1. W_up starts as zero, so nothing changes at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from keeptune.core.shape import ModelShape
from keeptune.engine.named_generator import named_generator
from keeptune.engine.places import ModuleOutput, Place, Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods._choices import Activation
from keeptune.methods._layers import Layers, chosen_layers
from keeptune.methods.bottleneck import two_layer_parameters
from keeptune.models.anatomy import Layer, anatomy_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Parallel(Method):
    """A small network beside a sublayer, the model frozen."""

    mergeable: ClassVar[bool] = False

    bottleneck: int = Field(64, ge=1, le=65536, description="Inner width r.")
    on: Literal["feed_forward", "attention"] = Field("feed_forward", description="The sublayer.")
    input: Literal["residual", "normed"] = Field("residual", description="What the network reads.")
    scale: Annotated[float, Field(gt=0)] | Literal["learned"] = Field(4.0, description="s, or learned from 1.")
    activation: Activation = Field("relu", description="The nonlinearity f.")
    layers: Layers = Field("all", description="The blocks by index, or all.")

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One network per block."""
        from keeptune.methods._bottleneck import TwoLayer

        anatomy, width = anatomy_of(model), ModelShape.from_config(model.config.to_dict()).width
        scale = None if self.scale == "learned" else self.scale
        return [
            Placed(
                self._beside(anatomy.layers[index]),
                TwoLayer(width, self.bottleneck, activation=self.activation, reads="x", scale=scale),
            )
            for index in chosen_layers(self.layers, len(anatomy.layers))
        ]

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Each network from its own generator."""
        for place, delta, _ in placed:
            delta.start(named_generator(seed, place.path))

    def cost(self, shape: ModelShape) -> Cost:
        """Per block 2 D r + D + r, and a learned scale."""
        per_layer = two_layer_parameters(shape.width, self.bottleneck) + (self.scale == "learned")
        layers = len(chosen_layers(self.layers, shape.layers))
        count = per_layer * layers
        return Cost(count, 4 * count, held=Held(layers * (shape.width + self.bottleneck)))

    def _beside(self, layer: Layer) -> Place:
        from keeptune.engine.residual import BesideSublayer

        path, reads = layer.sublayers[self.on], layer.reads[self.on]
        if self.input == "residual":
            return BesideSublayer(path, layer.index, norm=layer.streams[self.on])
        return ModuleOutput(path, layer.index) if reads == path else BesideSublayer(path, layer.index, norm=reads)
