"""Head: a classifier on the model's hidden states, the model itself frozen, as in probing (Hewitt and Liang 2019).

    scores = head(pool(h_1 ... h_T)),    h: the states of one layer, or a learned mix of all

It reads the request and never the answer, and it changes nothing that the model says. Alone it is a probe that
answers; in a list with `lora` or any other method both train together. LP-FT (Kumar et al. 2022, arXiv:2202.10054)
trains the head first and then both: `start` names the adapter whose head the second stage begins with.

A row's tokens are pooled over their mean, over the first one (`cls`), the last one, or by attention with a learned
query. The labels are those of the data, unless the recipe lists them. They are learned with the loss `label`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import Self

from keeptune.core.errors import PlanError, did_you_mean
from keeptune.core.shape import ModelShape
from keeptune.engine.named_generator import named_generator
from keeptune.engine.places import Placed
from keeptune.methods import Cost, Method
from keeptune.methods._choices import Kind, Pooling
from keeptune.models.anatomy import anatomy_of
from keeptune.models.families import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from keeptune.methods._readout_net import ReadoutNet


class Head(Method):
    """A classifier behind the model's body."""

    reads_only: ClassVar[bool] = True

    kind: Kind = Field("linear", description="The function from the pooled state to the scores.")
    inner: int = Field(64, ge=1, le=65536, description="Its inner width; linear has none.")
    pooling: Pooling = Field("mean", description="How the tokens of a row become one state.")
    layer: int | Literal["last", "mix"] = Field(
        "last", description="States behind that block (0: embeddings), or a mix."
    )
    labels: list[str] = Field([], description="The answers, in the order of the scores; empty: those of the data.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the pooled state, in training.")
    start_from: str | None = Field(None, description="An adapter whose head it begins with (LP-FT).")

    def fitted(self, answers: Sequence[str]) -> Self:
        """With the labels of the data, where none are listed."""
        return self if self.labels else self.model_copy(update={"labels": sorted(set(answers))})

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One network behind the body.

        Raises:
            PlanError: no labels (E-HEAD-LABELS), a layer that is not there (E-METHOD-LAYER), or the first token of a
                decoder, which has seen nothing (E-METHOD-FAMILY).
        """
        from keeptune.engine.readout import Reading
        from keeptune.methods._readout_net import ReadoutNet

        anatomy, shape = anatomy_of(model), ModelShape.from_config(model.config.to_dict())
        self._check(shape)
        count = self._states(shape)
        last = None if self.layer == "mix" else count - 1
        layer = self.layer if isinstance(self.layer, int) else last
        net = ReadoutNet(
            self.labels, shape.width, kind=self.kind, inner=self.inner, pooling=self.pooling, layer=layer, layers=count,
            dropout=self.dropout,
        )  # fmt: skip
        return [Placed(Reading(anatomy.body), net)]

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Equal scores for every label, or the head of another adapter."""
        import torch

        (place, net, _) = placed[0]
        if self.start_from is None:
            net.start(named_generator(seed, place.key))
            return
        other = self._other(model)
        shapes = {key: tensor.shape for key, tensor in net.state_dict().items()}
        if other.labels != net.labels or {key: t.shape for key, t in other.state_dict().items()} != shapes:
            raise PlanError(
                f"the head of '{self.start_from}' has other labels or another form.",
                code="E-HEAD-START",
                where={"key": "start_from"},
                fix="Give both heads the same settings.",
            )
        with torch.no_grad():
            net.load_state_dict(other.state_dict())

    def cost(self, shape: ModelShape) -> Cost:
        """The head, a query of D for attention, and for a mix one share per layer and gamma."""
        self._check(shape)
        count = readout_parameters(len(self.labels), shape.width, self.kind, self.inner)
        count += shape.width if self.pooling == "attention" else 0
        count += self._states(shape) + 1 if self.layer == "mix" else 0
        return Cost(count, 4 * count)

    def saved_settings(self) -> dict[str, Any]:
        """Without what it began with."""
        return {**self.to_dict(), "start_from": None}

    def _states(self, shape: ModelShape) -> int:
        """The embeddings and the blocks whose states it can read; of an encoder-decoder those of the encoder."""
        return 1 + (shape.encoder_layers or shape.layers)

    def _check(self, shape: ModelShape) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise PlanError(
                f"a head needs two or more different labels; it has {len(self.labels)}.",
                code="E-HEAD-LABELS",
                where={"key": "labels"},
                fix="List them, or train on data whose answers are labels.",
            )
        if isinstance(self.layer, int) and not 0 <= self.layer < self._states(shape):
            raise PlanError(
                f"`layer` is {self.layer}; this model's states are 0 (embeddings) to {self._states(shape) - 1}.",
                code="E-METHOD-LAYER",
                where={"key": "layer"},
            )
        if self.pooling == "cls" and (shape.family not in FAMILIES or FAMILIES[shape.family].kind == "decoder"):
            raise PlanError(
                "the first token of a decoder has seen nothing but itself.",
                code="E-METHOD-FAMILY",
                where={"key": "pooling"},
                fix="Use `last`, `mean` or `attention`.",
            )

    def _other(self, model: PreTrainedModel) -> ReadoutNet:
        from keeptune.engine.book import book_of
        from keeptune.methods._readout_net import ReadoutNet

        book = book_of(model)
        heads = {} if book is None else {
            adapter.name: placed.delta for adapter in book.adapters for part in adapter.placed for placed in part
            if isinstance(placed.delta, ReadoutNet)
        }  # fmt: skip
        if self.start_from not in heads:
            raise PlanError(
                f"no adapter called '{self.start_from}' has a head.",
                code="E-HEAD-START",
                where={"key": "start_from"},
                fix=did_you_mean(str(self.start_from), heads),
            )
        return heads[self.start_from]


def readout_parameters(labels: int, width: int, kind: Kind, inner: int) -> int:
    """Of the head without pooling and mix: C D + C; r D + C r + C (+ C r^2); m D + m + C m + C."""
    if kind == "linear":
        return labels * width + labels
    extra = {"low_rank": 0, "bilinear": labels * inner * inner, "mlp": inner}[kind]
    return inner * width + labels * inner + labels + extra
