"""Partial fine-tuning: the blocks next to the embedding stay frozen, those next to the head are trained.

Lower blocks hold more of what tasks share (Lee et al. 2019, arXiv:1911.03090, reach nine tenths of the quality with the
upper quarter of BERT's blocks). The final norm is trained with the blocks;
so is a head with a matrix of its own, and never the embedding, unless asked. Weights change in place, as in `full`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from keeptune.core.counting import counted
from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.places import Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods.full import held_in_place
from keeptune.models.anatomy import anatomy_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BYTES = 4  # a parameter that is being trained is kept in float32


class Freeze(Method):
    """Trains the upper blocks of the base itself."""

    detachable: ClassVar[bool] = False
    trains_base: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True

    bottom: int | None = Field(None, ge=0, description="Frozen blocks, counted from the embedding.")
    top: int | None = Field(None, ge=0, description="Trained blocks, counted from the head; half of them when null.")
    blocks: tuple[int, int] | None = Field(
        None,
        description="First and last trained block, counted from 0; final norm and head follow the last.",
    )
    embeddings: bool = Field(
        False, description="Train the tables of tokens and positions, or the map from patches, too."
    )
    head: bool | None = Field(None, description="Train the head; null: where it has a matrix of its own.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(chosen is not None for chosen in (self.bottom, self.top, self.blocks)) > 1:
            raise ValueError("'bottom', 'top' and 'blocks' each say which blocks train: give one, not both")
        if self.blocks is not None and not 0 <= self.blocks[0] <= self.blocks[1]:
            raise ValueError("'blocks' are the first and the last trained block, such as [2, 3]")
        return self

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """No deltas."""
        self.trained(model)
        return []

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """The weights are there already."""

    def trained(self, model: PreTrainedModel) -> list[str]:
        """What lies in a trained block, the final norm, and the ends where they are asked for."""
        from keeptune.engine.book import base_parameters

        anatomy = anatomy_of(model)
        self._check_ends(decoder=anatomy.kind == "decoder", encoder=anatomy.kind in ("encoder", "image"))
        count = len(anatomy.layers)
        trained = self._trained_blocks(count)
        chosen = {anatomy.layers[index].block for index in trained}
        blocks = {layer.block for layer in anatomy.layers}
        ends, rest = {anatomy.final_norm: trained.stop == count}, False
        if anatomy.kind == "decoder":
            tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
            head = self._trains_head(tied) and (trained.stop == count or bool(self.head))
            ends[str(anatomy.head)], rest = head, self.embeddings
        elif self.embeddings:
            ends[anatomy.embedding.rpartition(".")[0]] = True
        names = []
        for name, _ in base_parameters(model):
            block = next((path for path in blocks if name.startswith(f"{path}.")), None)
            end = next((path for path in ends if path and name.startswith(f"{path}.")), "")
            if block in chosen or (block is None and (ends[end] if end else rest)):
                names.append(name)
        return names

    def cost(self, shape: ModelShape) -> Cost:
        """The trained blocks, the final norm, and the ends where they are asked for."""
        decoder = shape.outside is None
        self._check_ends(decoder=decoder, encoder=shape.before is not None)
        blocks = self._trained_blocks(shape.layers)
        last = blocks.stop == shape.layers
        count = sum(shape.parameters_of(layer) for layer in blocks) + (shape.final_norm_parameters if last else 0)
        count += shape.embedding_parameters if self.embeddings else 0
        head = decoder and self._trains_head(shape.tied) and (last or bool(self.head))
        count += shape.head_parameters if head else 0
        return Cost(count, BYTES * shape.parameters(), held=Held(held_in_place(shape, blocks)))

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """The weights are in place already."""

    def _check_ends(self, *, decoder: bool, encoder: bool) -> None:
        """Only a decoder's head is trained here, and embeddings where the blocks are one stack."""
        asked = {"head": bool(self.head) and not decoder, "embeddings": self.embeddings and not (decoder or encoder)}
        key = next((key for key, wrong in asked.items() if wrong), None)
        if key is not None:
            raise PlanError(
                f"`{key}` is an end that this model does not have, or that two stacks of blocks share.",
                code="E-METHOD-FAMILY",
                where={"key": key},
                fix="Leave it out, or use `full`.",
            )

    def _trained_blocks(self, count: int) -> range:
        wanted = {"bottom": self.bottom, "top": self.top, "blocks": self.blocks and self.blocks[1] + 1}
        for key, chosen in wanted.items():
            if chosen is not None and chosen > count:
                raise PlanError(
                    f"`{key}` is {chosen - (key == 'blocks')}, but the model has {counted(count, 'block')}.",
                    code="E-METHOD-LAYER",
                    where={"key": key},
                    fix=f"Give a number up to {count - (key == 'blocks')}.",
                )
        if self.blocks is not None:
            return range(self.blocks[0], self.blocks[1] + 1)
        if self.top is not None:
            return range(count - self.top, count)
        return range(count // 2 if self.bottom is None else self.bottom, count)

    def _trains_head(self, tied: bool) -> bool:
        if tied and self.head is not None and self.head != self.embeddings:
            raise PlanError(
                "the head shares its matrix with the embedding, so one cannot be trained without the other.",
                code="E-METHOD-TIED",
                where={"key": "head"},
                fix="Leave `head` out; with `embeddings: true` both are trained.",
            )
        return self.head is not False
