"""The output head as a value: logits of chosen hidden states, never of the whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.even import evened
from keeptune.models.families import FAMILIES


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

    @property
    def wide(self) -> torch.dtype:
        """The dtype of finished logits: float32, or float64 for a float64 head."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) to (N, V) in float32 or wider."""
        return self.finished(self.product(hidden)[: len(hidden)])

    def product(self, hidden: Tensor, into: Tensor | None = None) -> Tensor:
        """(N, D) to W h + b, in the weight's dtype, as in the reference forward: N rows and the few that make it even.

        What stands in the rows behind the first N means nothing (`even.py`). Where nothing is differentiated, the first
        rows of `into`, an earlier product of as many rows or more, are overwritten with it.
        """
        rows = evened(hidden.to(self.weight.dtype))
        if into is None:
            return functional.linear(rows, self.weight, self.bias)
        if self.bias is None:
            return torch.mm(rows, self.weight.T, out=into[: len(rows)])
        return torch.addmm(self.bias, rows, self.weight.T, out=into[: len(rows)])

    def finished(self, product: Tensor) -> Tensor:
        """The logits of products (N, V), in float32 or wider; the same tensor where there is nothing to do."""
        logits = product.to(self.wide)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits


def head_of(model: PreTrainedModel) -> Head:
    """The head of a language model of any known family, causal or encoder-decoder.

    Raises:
        PlanError: the model has none that reads hidden states alone (E-MODEL-HEADLESS).
    """
    linear = model.get_output_embeddings()
    family = FAMILIES.get(model.config.model_type)
    if linear is None or (family is not None and family.kind not in ("decoder", "encoder_decoder")):
        raise PlanError(
            f"this {model.config.model_type} model predicts no next token.",
            code="E-MODEL-HEADLESS",
            why="It is an encoder: it reads texts or images, and what it learns here are labels.",
            fix="Use the method `head` with the loss `label`, and the metric label_accuracy.",
        )
    config, bias = model.config, getattr(linear, "bias", None)
    if getattr(model, "final_logits_bias", None) is not None:
        bias = model.final_logits_bias[0]
    scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
    return Head(linear.weight, bias, soft_cap=getattr(config, "final_logit_softcapping", None), scale=scale)


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(N, V) logits, in float32 or wider, of the hidden states (N, D)."""
    return head_of(model).logits(hidden)
