"""The output head as a value: logits of chosen hidden states, never of the whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Head:
    """logits = cap * tanh(scale * (W h + b) / cap), without the cap when it is None.

    Attributes:
        weight: W, (V, D); shared with the input embedding in a tied model.
        bias: b, (V,) or None.
        soft_cap: cap (Gemma 2).
        scale: factor on the logits.
    """

    weight: Tensor
    bias: Tensor | None = None
    soft_cap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) to (N, V) in float32 or wider. The product runs in the weight's dtype, as in the reference forward."""
        logits = functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits


def head_of(model: PreTrainedModel) -> Head:
    """The head of a causal language model of any known family."""
    linear = model.get_output_embeddings()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return Head(linear.weight, getattr(linear, "bias", None), soft_cap=cap)


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(N, V) logits, in float32 or wider, of the hidden states (N, D)."""
    return head_of(model).logits(hidden)
