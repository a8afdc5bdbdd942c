"""Soft tokens as P-tuning trains them: an encoder makes them all from p vectors, and no file keeps it."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from keeptune.engine.deltas import Delta
from keeptune.methods._choices import Encoder


class EncodedPrompt(Delta):
    """Virtual tokens as an encoder makes them, in float32.

    Attributes:
        vectors: Z, `[p, D]`; without an encoder they are the tokens.
        lstm: two bidirectional layers, or None.
        mlp: the maps and their ReLUs; none without an encoder.
    """

    def __init__(self, length: int, width: int, inner: int, encoder: Encoder) -> None:
        super().__init__()
        self.room = length
        self.vectors = nn.Parameter(torch.zeros(length, width))
        self.lstm = None
        widths = [width, inner, inner, width] if encoder == "mlp" else []
        if encoder == "lstm":
            self.lstm = nn.LSTM(width, inner, num_layers=2, bidirectional=True, batch_first=True)
            widths = [2 * inner, width, width]
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
