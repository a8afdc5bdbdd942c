"""Whether a model that was written answers as the one before: the same inputs through both.

    difference = max over inputs of  max |after - before| / max |before|

over logits, or over the last hidden states of a model without a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from keeptune.models.load import Loaded

TOLERANCE = 1e-4
"""Largest difference that counts as none; both models are computed in float32."""
TEXTS = (
    "Question: which river is the longest?\nAnswer:",
    "Le café coûte 3,50 € – and 17 x 23 = 391.",
    "def area(width, height):\n    return width * height\n",
)
LENGTHS = (5, 16, 33, 48)
"""Tokens of the rows that are drawn: what no text looks like is where a wrong weight shows."""

Inputs = list[dict[str, "Tensor"]]


def probing_inputs(loaded: Loaded) -> Inputs:
    """Rows to compare on: three texts and four rows of drawn tokens; of an image encoder four drawn images."""
    import torch

    model, config = loaded.model, loaded.model.config
    generator = torch.Generator().manual_seed(0)
    if loaded.anatomy.kind == "image":
        size = config.image_size if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2
        return [{"pixel_values": torch.randn(1, config.num_channels, *size, generator=generator)} for _ in LENGTHS]
    known = min(len(loaded.tokenizer), model.get_input_embeddings().weight.shape[0])
    longest = min(max(LENGTHS), getattr(config, "max_position_embeddings", None) or max(LENGTHS)) - 2
    rows = [torch.tensor(loaded.tokenizer(text)["input_ids"][:longest]) for text in TEXTS]
    rows += [torch.randint(known, (min(length, longest),), generator=generator) for length in LENGTHS]
    inputs = [{"input_ids": row[None]} for row in rows if len(row)]
    if loaded.anatomy.kind == "encoder_decoder":
        for row in inputs:
            row["decoder_input_ids"] = torch.randint(known, (1, 9), generator=generator)
    return inputs


def outputs_of(model: PreTrainedModel, inputs: Inputs, call: Callable[..., Any] | None = None) -> list[Tensor]:
    """What a model says to each row, `[tokens, vocabulary or width]` in float32 on the processor.

    Args:
        model: on its device, in evaluation mode.
        inputs: of `probing_inputs`.
        call: instead of the model itself.
    """
    import torch

    device, found = next(model.parameters()).device, []
    with torch.no_grad():
        for row in inputs:
            said = (call or model)(**{key: value.to(device) for key, value in row.items()})
            found.append((said.logits if "logits" in said else said.last_hidden_state)[0].float().cpu())
    return found


def difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest value of its row; infinite where one is not a number."""
    import torch

    found = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(after, before, strict=True)]
    return max(found) if torch.tensor(found).isfinite().all() else float("inf")


def agreement(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Share of positions whose largest value stands at the same place."""
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(after, before, strict=True))
    return same / sum(len(row) for row in before)
