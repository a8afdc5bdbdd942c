"""Cloze: what a masked language model says at the mask of a row's template, as scores of labels.

    score_c = logit of verbaliser(c) at the mask

Shapes: S rows, D width, V vocabulary, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.engine.padded import States
from keeptune.engine.readout import Readout, Span
from keeptune.models.families import FAMILIES
from keeptune.models.load import loaded_of


class Cloze(Readout):
    """Scores of labels by the word that stands for each.

    Args:
        verbaliser: label to the id of its word, in the order of the scores.
    """

    def __init__(self, verbaliser: Mapping[str, int]) -> None:
        super().__init__()
        self.labels = tuple(verbaliser)
        self.words = tuple(verbaliser.values())

    def scores_of(self, model: PreTrainedModel, states: States, spans: Sequence[Span], rows: Sequence[int]) -> Tensor:
        """`[S, C]`, from the states at the masks."""
        assert states.masked is not None, "a cloze belongs to a template with a mask"
        logits = cloze_logits(model, states.masked[list(rows)])
        words = torch.tensor(self.words, device=logits.device)
        return logits[:, words].to(torch.promote_types(logits.dtype, torch.float32))


def cloze_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """`[S, D]` states at masks to `[S, V]`, by the model's own head.

    Raises:
        PlanError: the model has none (E-MODEL-CLOZE).
    """
    for path in cloze_paths(model):
        hidden = model.get_submodule(path)(hidden)
    return hidden


def cloze_paths(model: PreTrainedModel) -> tuple[str, ...]:
    """The modules of the masked-language-model head, in order.

    Raises:
        PlanError: the model has none (E-MODEL-CLOZE).
    """
    paths = known_cloze_paths(model)
    if not paths:
        raise PlanError(
            f"this {model.config.model_type} model has no head that says which word stands at a mask.",
            code="E-MODEL-CLOZE",
            fix="Use a BERT, RoBERTa, DeBERTa-v2 or ModernBERT whose files hold the masked-language-model head; or the "
            "method `head`.",
        )
    return paths


def known_cloze_paths(model: PreTrainedModel) -> tuple[str, ...]:
    """The same; nothing where the model has no such head."""
    family = FAMILIES.get(model.config.model_type)
    paths = () if family is None else family.cloze
    return paths if all(hasattr(model, path) for path in paths) else ()


def mask_of(model: PreTrainedModel) -> tuple[int, list[int]]:
    """The id of the mask, and those of all special tokens, of a model that has a masked-language-model head.

    Raises:
        PlanError: it has none, or its tokenizer has no mask (E-MODEL-CLOZE).
    """
    cloze_paths(model)
    tokenizer = loaded_of(model).tokenizer
    if tokenizer.mask_token_id is None:
        raise PlanError(
            "this model's tokenizer has no mask token.",
            code="E-MODEL-CLOZE",
            fix="Use a masked language model such as BERT or RoBERTa, with its own tokenizer.",
        )
    return int(tokenizer.mask_token_id), sorted(map(int, tokenizer.all_special_ids))
