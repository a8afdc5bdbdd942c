"""Prefix tuning: trained keys and values before the text in every layer (Li and Liang 2021, arXiv:2101.00190).

    Attn(q, [P_k; K], [P_v; V]),    P_k, P_v: p x G x K per layer (G key-value heads)
    P = tanh(E W_in + b_in) W_out + b_out,    E: p x D,  W_in: D x m

The second line is the paper's reparameterisation: it only serves training, and a file keeps P. `hidden: null` trains P
itself. In grouped-query attention a prefix has G heads, not H. No rotation is applied to P_k.

Starts: `random` (E normal; P normal without the network); `text` and `vocabulary` are the keys and values that the
frozen model computes for words. The paper fits the network to those; here P = those + network, whose output map starts
at zero, so the start is exact. `positions: shift` lets the text begin at p, as in the paper's code, PEFT, and the model
that reads the words; `none` at 0. With `gate`, a prefix has a softmax of its own and is added with the factor tanh(g)
per head, g = 0 at the start (Zhang et al. 2023, arXiv:2303.16199): nothing changes then, and no position moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from typing_extensions import Self

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.deltas import Placed, named_generator
from keeptune.engine.generation import evaluating
from keeptune.engine.positions import Positions
from keeptune.engine.prefixes import KeysValues
from keeptune.engine.rotary import depends_on_length
from keeptune.engine.rows import off
from keeptune.methods import Cost, Method
from keeptune.methods._layers import Layers, chosen_layers
from keeptune.methods._prefix_deltas import LayerPrefix, Stem
from keeptune.methods._vocabulary import frequent_ids
from keeptune.models.anatomy import anatomy_of
from keeptune.models.load import loaded_of


class Prefix(Method):
    """Keys and values before the text of every row that it serves."""

    identity_at_start: ClassVar[bool] = False

    length: int = Field(30, ge=1, le=4096, description="Virtual tokens p.")
    hidden: int | None = Field(512, ge=1, le=65536, description="Width m of the training network; null: none.")
    init: Literal["random", "vocabulary", "text"] = Field("random", description="How they start.")
    text: str = Field("", description="With init text: the words whose keys and values they start as.")
    positions: Literal["shift", "none"] | None = Field(None, description="Where the text begins; null: shift, ungated.")
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

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One prefix per layer; the positions, and with them what the layers share."""
        layers, shape = anatomy_of(model).layers, ModelShape.from_config(model.config.to_dict())
        self._check_room(model, shape)
        stem = Stem(self.room, self.length, shape.width, self.hidden)
        placed = [Placed(Positions(model.base_model_prefix), stem)] if self.room or self.hidden else []
        for index in chosen_layers(self.layers, len(layers)):
            size = (self.length, shape.kv_heads, shape.head_width)
            delta = LayerPrefix(size, self.hidden, shape.heads if self.gate else None, self.dropout)
            delta.stem = [stem] if self.hidden else []
            placed.append(Placed(KeysValues(layers[index].attention, index), delta))
        return placed

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """As `init` says, each layer from its own generator."""
        states = None if self.init == "random" else self._states(model, named_generator(seed, "prefix"))
        for place, delta, _ in placed:
            generator = named_generator(seed, place.key)
            if isinstance(delta, LayerPrefix):
                delta.start(generator, None if states is None else states[place.layer or 0])
            else:
                delta.start(generator)

    def cost(self, shape: ModelShape) -> Cost:
        """Kept: 2 p G K per layer, and H gates. Trained with a network: p D + D m + m, and 2 G K (m + 1) per layer."""
        layers, outputs = len(chosen_layers(self.layers, shape.layers)), 2 * shape.kv_heads * shape.head_width
        gates = layers * shape.heads if self.gate else 0
        kept = layers * self.length * outputs
        trained = kept
        if self.hidden is not None:
            stem = self.length * shape.width + shape.width * self.hidden + self.hidden
            trained = stem + layers * outputs * (self.hidden + 1)
        return Cost(trained + gates, 4 * (kept + gates))

    def saved_settings(self) -> dict[str, Any]:
        """Without the network, which no file keeps, and with the positions as a word."""
        return {**self.to_dict(), "hidden": None, "positions": "shift" if self.room else "none"}

    def _check_room(self, model: PreTrainedModel, shape: ModelShape) -> None:
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

    def _states(self, model: PreTrainedModel, generator: torch.Generator) -> list[Tensor]:
        """Per layer `[p, 2, G, K]`: keys and values of the words, then of frequent tokens."""
        ids: list[int] = []
        if self.init == "text":
            ids = loaded_of(model).tokenizer(self.text, add_special_tokens=False)["input_ids"][: self.length]
            if not ids:
                raise PlanError(f"{self.text!r} has no tokens.", code="E-METHOD-INIT", where={"key": "text"})
        ids = ids + frequent_ids(model, self.length - len(ids), generator)
        tokens = torch.tensor([ids], device=model.get_input_embeddings().weight.device)
        with torch.no_grad(), evaluating(model), off(model):
            cache = DynamicCache()  # without a config: every layer keeps all, whatever its window
            model.base_model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return [torch.stack([layer.keys[0], layer.values[0]]).permute(2, 0, 1, 3).float() for layer in cache.layers]
