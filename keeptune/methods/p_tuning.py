"""P-tuning: virtual tokens that an encoder makes while they are trained (Liu et al. 2021, arXiv:2103.10385).

    X' = [P; E(x)],    P = mlp(bilstm(Z)),    P, Z: p x D

`lstm` is the paper's encoder: two bidirectional layers of width m, then Linear(2m, 2m), ReLU, Linear(2m, D), with
m = D / 2. `mlp` is the shorter one: three maps of width m = D with ReLU between. Either serves training alone: a file
keeps P and is one of `prompt`. The paper's templates put virtual tokens inside the text too; here they stand before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.core.shape import ModelShape
from keeptune.engine.deltas import Delta, Placed, named_generator
from keeptune.engine.soft_prompt import InputEmbedding
from keeptune.methods import Cost, Held, Method
from keeptune.methods._families import require_tokens
from keeptune.methods.prompt import Prompt
from keeptune.models.anatomy import anatomy_of

Encoder = Literal["lstm", "mlp"]


class PTuning(Method):
    """A soft prompt whose tokens learn through a common encoder."""

    identity_at_start: ClassVar[bool] = False

    length: int = Field(20, ge=1, le=4096, description="Virtual tokens p.")
    encoder: Encoder = Field("lstm", description="What makes them from p trained vectors.")
    hidden: int | None = Field(None, ge=1, le=65536, description="Its width m; null: D / 2 for lstm, D for mlp.")

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One block of virtual tokens at the input embedding."""
        require_tokens(model.config.model_type, self.name)
        path = anatomy_of(model).embedding
        width = model.get_submodule(path).weight.shape[1]
        return [Placed(InputEmbedding(path), EncodedPrompt(self.length, width, self._inner(width), self.encoder))]

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Z normal, each map uniform within one over the root of its inputs, the LSTM within 1/sqrt(m)."""
        (place, delta, _) = placed[0]
        delta.start(named_generator(seed, place.path))

    def cost(self, shape: ModelShape) -> Cost:
        """Trained: p D and the encoder. Kept: p D."""
        require_tokens(shape.family, self.name)
        width, inner = shape.width, self._inner(shape.width)
        maps = [(width, inner), (inner, inner), (inner, width)]
        recurrent = 0
        if self.encoder == "lstm":
            maps = [(2 * inner, 2 * inner), (2 * inner, width)]
            recurrent = sum(2 * 4 * inner * (inputs + inner + 2) for inputs in (width, 2 * inner))
        kept = self.length * width
        trained = kept + recurrent + sum((inputs + 1) * outputs for inputs, outputs in maps)
        return Cost(trained, 4 * kept, held=Held(0), virtual_tokens=self.length)

    def saved_settings(self) -> dict[str, Any]:
        """Those of a prompt: no file keeps the encoder."""
        return Prompt(length=self.length).saved_settings()

    def _inner(self, width: int) -> int:
        return self.hidden or (max(1, width // 2) if self.encoder == "lstm" else width)


class EncodedPrompt(Delta):
    """Virtual tokens as an encoder makes them, in float32.

    Attributes:
        vectors: Z, `[p, D]`.
        lstm: two bidirectional layers, or None.
        mlp: the maps and their ReLUs.
    """

    def __init__(self, length: int, width: int, inner: int, encoder: Encoder) -> None:
        super().__init__()
        self.room = length
        self.vectors = nn.Parameter(torch.zeros(length, width))
        self.lstm = None
        widths = [width, inner, inner, width]
        if encoder == "lstm":
            self.lstm = nn.LSTM(width, inner, num_layers=2, bidirectional=True, batch_first=True)
            widths = [2 * inner, 2 * inner, width]
        parts: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            parts += [nn.ReLU()] if parts else []
            parts.append(nn.Linear(inputs, outputs))
        self.mlp = nn.Sequential(*parts)

    def virtual(self) -> Tensor:
        """P, `[p, D]`."""
        inner = self.vectors if self.lstm is None else self.lstm(self.vectors[None])[0][0]
        made: Tensor = self.mlp(inner)
        return made

    def start(self, generator: torch.Generator) -> None:
        """Every value from the generator."""
        with torch.no_grad():
            self.vectors.normal_(generator=generator)
            bounded = [(part, part.in_features) for part in self.mlp if isinstance(part, nn.Linear)]
            recurrent = [] if self.lstm is None else [(self.lstm, self.lstm.hidden_size)]
            for part, inputs in (*recurrent, *bounded):
                for parameter in part.parameters():
                    parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)

    def kept(self) -> dict[str, Tensor]:
        """P alone."""
        return {"prompt_embeddings": self.virtual().detach()}
