"""Prefix tuning: trained keys and values before the text in every layer (Li and Liang 2021, arXiv:2101.00190).

    Attn(q, [P_k; K], [P_v; V]),    P_k, P_v: p x G x K per layer (G key-value heads)
    P = tanh(E W_in + b_in) W_out + b_out,    E: p x D,  W_in: D x m

The second line is the paper's reparameterisation: it only serves training, and a file keeps P. `hidden: null` trains P
itself. In grouped-query attention a prefix has G heads, not H. No rotation is applied to P_k. An encoder-decoder has
three prefixes: of the encoder, the decoder, and the decoder's attention to the encoder, each with its own E and W_in.

Starts: `random` (E normal; P normal without the network); `text` and `vocabulary` are the keys and values that the
frozen model computes for words. The paper fits the network to those; here P = those + network, whose output map starts
at zero, so the start is exact. `positions: shift` lets the text begin at p, as in the paper's code, PEFT, and the model
that reads the words; `none` at 0, as it must where a model takes no positions (T5, BART, ViT). With `gate`, a prefix
has a softmax of its own and is added with the factor tanh(g) per head, g = 0 at the start (Zhang et al. 2023,
arXiv:2303.16199): nothing changes then, and no position moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.named_generator import named_generator
from keeptune.engine.places import Nowhere, Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods._families import require_prefixes
from keeptune.methods._layers import Layers, chosen_layers
from keeptune.models.anatomy import Anatomy, Layer, anatomy_of
from keeptune.models.families import FAMILIES

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from keeptune.methods._prefix_deltas import Stem

Shift = Literal["shift", "none"]


class Prefix(Method):
    """Keys and values before the text of every row that it serves."""

    identity_at_start: ClassVar[bool] = False

    length: int = Field(30, ge=1, le=4096, description="Virtual tokens p.")
    hidden: int | None = Field(512, ge=1, le=65536, description="Width m of the training network; null: none.")
    init: Literal["random", "vocabulary", "text"] = Field("random", description="How they start.")
    text: str = Field("", description="With init text: the words whose keys and values they start as.")
    positions: Shift | None = Field(None, description="Where the text begins; null: shift if it can.")
    layers: Layers = Field("all", description="The layers by index, or all.")
    gate: bool = Field(False, description="A softmax of its own and a gate per head that starts at zero.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on keys and values, in training.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.text) != (self.init == "text"):
            raise ValueError("'text' is given exactly when init is 'text'")
        if self.gate and self.positions == "shift":
            raise ValueError("a gated prefix takes no positions; leave 'positions' out")
        return self

    @property
    def room(self) -> int:
        """Positions before the text."""
        return 0 if self.gate or self.positions == "none" else self.length

    def adjusted(self, model: PreTrainedModel) -> Self:
        """With positions that the model has."""
        return self.model_copy(update={"positions": settled_positions(model, self.positions)})

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One prefix per attention; the positions, and with them what the layers share."""
        from keeptune.engine.prefixes import KeysValues
        from keeptune.methods._prefix_deltas import LayerPrefix

        anatomy, shape = anatomy_of(model), ModelShape.from_config(model.config.to_dict())
        self._check_room(model, anatomy, shape)
        stems = self._stems(anatomy, shape)
        placed = list(stems.values()) if self.room or self.hidden else []
        for index in chosen_layers(self.layers, len(anatomy.layers)):
            layer = anatomy.layers[index]
            for site, path in sites(anatomy, layer).items():
                size = (self.length, shape.kv_heads, shape.head_width)
                delta = LayerPrefix(size, self.hidden, shape.heads if self.gate else None, self.dropout)
                delta.stem = [stems[site].delta] if self.hidden else []
                placed.append(Placed(KeysValues(path, index, cross=site == "cross"), delta))
        return placed

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """As `init` says, each layer from its own generator."""
        from keeptune.methods._prefix_deltas import LayerPrefix

        states = None if self.init == "random" else self._states(model, named_generator(seed, "prefix"))
        for place, delta, _ in placed:
            generator = named_generator(seed, place.key)
            if isinstance(delta, LayerPrefix):
                delta.start(generator, None if states is None else states[place.path])
            else:
                delta.start(generator)

    def takes(self, shape: ModelShape, tokenizer: Any) -> int:
        """Its length, where the text begins behind it."""
        return self.room if FAMILIES[shape.family].positions else 0

    def cost(self, shape: ModelShape) -> Cost:
        """Kept: 2 p G K per attention, and H gates. A network trains p D + D m + m, and 2 G K (m + 1) per attention."""
        require_prefixes(shape.family, self.name)
        layers, outputs = chosen_layers(self.layers, shape.layers), 2 * shape.kv_heads * shape.head_width
        crossing = sum(0 < shape.encoder_layers <= layer for layer in layers)
        attentions = len(layers) + crossing
        gates = attentions * shape.heads if self.gate else 0
        kept = attentions * self.length * outputs
        trained = kept
        if self.hidden is not None:
            stem = self.length * shape.width + shape.width * self.hidden + self.hidden
            stems = 3 if shape.encoder_layers else 1
            trained = stems * stem + attentions * outputs * (self.hidden + 1)
        joined = 2 * attentions * shape.heads * shape.head_width
        return Cost(trained + gates, 4 * (kept + gates), held=Held(0), held_per_row=joined * self.length)

    def saved_settings(self) -> dict[str, Any]:
        """Without the network, which no file keeps, and with the positions as a word."""
        return {**self.to_dict(), "hidden": None, "positions": "shift" if self.room else "none"}

    def _stems(self, anatomy: Anatomy, shape: ModelShape) -> dict[str, Placed]:
        """By site, what its prefixes share: the network's first map, and the positions that it takes."""
        from keeptune.engine.positions import Positions
        from keeptune.methods._prefix_deltas import Stem

        def stem() -> Stem:
            return Stem(self.room, self.length, shape.width, self.hidden)

        if anatomy.kind != "encoder_decoder":
            place = Positions(anatomy.body) if anatomy.positions else Nowhere(anatomy.body)
            return {"self": Placed(place, stem())}
        last = anatomy.layers[-1]
        paths = {"encoder": anatomy.layers[0].attends, "decoder": last.attends, "cross": str(last.cross_attends)}
        return {site: Placed(Nowhere(path), stem()) for site, path in paths.items()}

    def _check_room(self, model: PreTrainedModel, anatomy: Anatomy, shape: ModelShape) -> None:
        from keeptune.engine.rotary import depends_on_length
        from keeptune.methods._word_states import require_words

        require_prefixes(shape.family, self.name)
        if self.init != "random":
            require_words(anatomy)
        if self.room and not anatomy.positions:
            raise PlanError(
                f"a {anatomy.family} model takes no positions, so a prefix cannot move them on.",
                code="E-METHOD-FAMILY",
                where={"key": "positions"},
                fix="Leave `positions` out, or use `none`.",
            )
        if self.room and depends_on_length(model.config):
            raise PlanError(
                "this model's rotary frequencies depend on the highest position, which a prefix would move.",
                code="E-MODEL-ROPE",
                where={"key": "positions"},
                fix="Use `positions: none`.",
            )
        if shape.positions and self.room >= shape.positions:
            raise PlanError(
                f"a prefix of {self.room} leaves no position for the text: this model has {shape.positions}.",
                code="E-METHOD-LENGTH",
                where={"key": "length"},
                fix="Use a shorter prefix, or `positions: none`.",
            )

    def _states(self, model: PreTrainedModel, generator: torch.Generator) -> dict[str, Tensor]:
        """By path `[p, 2, G, K]`: keys and values of the words, then of frequent tokens."""
        from keeptune.methods._vocabulary import frequent_ids
        from keeptune.methods._word_states import word_states
        from keeptune.models.load import loaded_of

        ids: list[int] = []
        if self.init == "text":
            ids = loaded_of(model).tokenizer(self.text, add_special_tokens=False)["input_ids"][: self.length]
            if not ids:
                raise PlanError(f"{self.text!r} has no tokens.", code="E-METHOD-INIT", where={"key": "text"})
        return word_states(model, ids + frequent_ids(model, self.length - len(ids), generator))


def settled_positions(model: PreTrainedModel, positions: Shift | None) -> Shift | None:
    """`none`, where nothing else was asked for and the model takes no positions."""
    return "none" if positions is None and not anatomy_of(model).positions else positions


def sites(anatomy: Anatomy, layer: Layer) -> dict[str, str]:
    """Site to the module that computes attention there; a site is what shares one network."""
    if anatomy.kind != "encoder_decoder":
        return {"self": layer.attends}
    if layer.cross_attends is None:
        return {"encoder": layer.attends}
    return {"decoder": layer.attends, "cross": layer.cross_attends}
