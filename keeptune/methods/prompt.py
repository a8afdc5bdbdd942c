"""Prompt tuning: a few virtual tokens before the text, the model frozen (Lester et al. 2021, arXiv:2104.08691).

    X' = [P; E(x)],   P: length x D

X is all that the model reads: in an encoder P stands before `[CLS]`, as PEFT has it, whose files mean the same here.
What stands inside the frame is a template of `p_tuning`.

Starts (section 3.2 of the paper): `vocabulary` takes rows of frequent tokens, drawn without replacement; `labels` takes
one row per class label (pieces averaged) and fills up from the vocabulary; `text` takes the rows of a sentence and
fills up likewise; `uniform` is U[-0.5, 0.5] as the paper says (its code draws from [0, 0.5]).

Virtual tokens want a learning rate 100 to 1000 times that of LoRA. An answer to a task's format can be learned here
and taken off again with the prompt, which is what ProMoT does (Wang et al. 2022, arXiv:2211.00635).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from keeptune.core.counting import counted
from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.named_generator import named_generator
from keeptune.engine.places import Placed
from keeptune.methods import Cost, Held, Method
from keeptune.methods._families import require_tokens
from keeptune.models.anatomy import anatomy_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


class Prompt(Method):
    """A soft prompt before the text of every row that it serves."""

    identity_at_start: ClassVar[bool] = False

    length: int = Field(20, ge=1, le=4096, description="Virtual tokens.")
    init: Literal["vocabulary", "text", "labels", "uniform"] = Field("vocabulary", description="How they start.")
    text: str = Field("", description="With init text: the sentence whose embedding they start as.")
    labels: list[str] = Field([], description="With init labels: one virtual token each; empty: those of the data.")

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if bool(self.text) != (self.init == "text"):
            raise ValueError("'text' is given exactly when init is 'text'")
        if self.labels and self.init != "labels":
            raise ValueError("'labels' is given only when init is 'labels'")
        return self

    def fitted(self, answers: Sequence[str]) -> Self:
        """With the labels of the data, where it starts from labels and none are listed."""
        if self.init != "labels" or self.labels:
            return self
        return self.model_copy(update={"labels": sorted(set(answers))})

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One block of virtual tokens at the input embedding."""
        from keeptune.engine.soft_prompt import InputEmbedding, SoftPrompt

        require_tokens(model.config.model_type, self.name)
        if self.init == "labels" and not 1 <= len(self.labels) <= self.length:
            raise PlanError(
                f"`init: labels` has {counted(len(self.labels), 'label')} for "
                f"{counted(self.length, 'virtual token')}, one for each.",
                code="E-METHOD-INIT",
                where={"key": "labels"},
                fix="List some of them, or set `length` to as many at least.",
            )
        path = anatomy_of(model).embedding
        width = model.get_submodule(path).weight.shape[1]
        return [Placed(InputEmbedding(path), SoftPrompt(self.length, width))]

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """As `init` says; rows are what the model's embedding returns, its own scale included."""
        import torch

        from keeptune.methods._vocabulary import frequent_ids

        (place, delta, _) = placed[0]
        generator = named_generator(seed, place.path)
        embedding = model.get_submodule(place.path)
        with torch.no_grad():
            if self.init == "uniform":
                delta.prompt_embeddings.uniform_(-0.5, 0.5, generator=generator)
                return
            rows = self._chosen_rows(model, embedding)[: self.length]
            ids = frequent_ids(model, self.length - len(rows), generator)
            rest = embedding(torch.tensor(ids, dtype=torch.long, device=embedding.weight.device))
            delta.prompt_embeddings.copy_(torch.cat([rows, rest]).float())

    def cost(self, shape: ModelShape) -> Cost:
        """Length * D."""
        require_tokens(shape.family, self.name)
        return Cost(self.length * shape.width, 4 * self.length * shape.width, held=Held(0), virtual_tokens=self.length)

    def takes(self, shape: ModelShape, tokenizer: Any) -> int:
        """One for each virtual token."""
        return self.length

    def _chosen_rows(self, model: PreTrainedModel, embedding: nn.Embedding) -> Tensor:
        """`[n, D]`: the rows that text or labels give."""
        import torch

        from keeptune.models.load import loaded_of

        device = embedding.weight.device
        pieces = [self.text] if self.text else [f" {label.strip()}" for label in self.labels]
        rows = []
        for piece in pieces:
            ids = loaded_of(model).tokenizer(piece, add_special_tokens=False)["input_ids"]
            if not ids:
                raise PlanError(f"{piece.strip()!r} has no tokens.", code="E-METHOD-INIT", where={"key": self.init})
            embedded = embedding(torch.tensor(ids, device=device))
            rows.append(embedded if self.text else embedded.mean(dim=0, keepdim=True))
        return torch.cat(rows) if rows else torch.zeros(0, embedding.weight.shape[1], device=device)
