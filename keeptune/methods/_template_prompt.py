"""The vectors of a template, and the words that stand for labels at its mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError
from keeptune.data.text_encoder import frame
from keeptune.engine.template_slot import Around
from keeptune.methods._encoded_prompt import EncodedPrompt
from keeptune.methods._template import MASK, Template, is_text, read_template
from keeptune.models.load import loaded_of


class TemplatePrompt(Around):
    """The vectors of a template: soft ones that are trained, embedded words and the mask.

    Attributes:
        soft: makes the soft ones.
        order: which soft vector, or behind all of those which word, stands where.
        words: ids of the words and the mask, in order.

    Args:
        model: that it is for.
        embedding: of the model.
        template: as it was read.
        soft: makes the soft ones.
        kind: of the model. In an encoder it stands inside the special tokens that the tokenizer puts around a text,
            as the authors' does in BERT; in front of an encoder-decoder before those that open it.
    """

    words: Tensor

    def __init__(
        self, model: PreTrainedModel, embedding: nn.Module, template: Template, soft: EncodedPrompt, *, kind: str
    ) -> None:
        super().__init__()
        tokenizer = None if _plain(template, kind) else loaded_of(model).tokenizer
        words: list[int] = []
        self.order: list[int] = []
        self.mask = None
        ends: list[int] = []
        taken = 0
        for place, part in enumerate(template.parts):
            if is_text(part):
                ends.append(len(self.order))
            elif isinstance(part, int):
                self.order += range(taken, taken + part)
                taken += part
            else:
                ids = [_mask_id(tokenizer)] if part == MASK else _ids(part, tokenizer, first=place == 0)
                self.mask = len(self.order) if part == MASK else self.mask
                self.order += [template.soft + len(words) + number for number in range(len(ids))]
                words += ids
        self.soft, self.room, self.ends = soft, len(self.order), tuple(ends)
        self.frame = (0, 0) if tokenizer is None or kind == "decoder" else _frame(tokenizer)
        self.separator = None if tokenizer is None else tokenizer.sep_token_id
        self.embedding = [embedding]  # in a list: it is the model's, no part of the adapter
        self.register_buffer("words", torch.tensor(words, dtype=torch.long), persistent=False)

    def virtual(self) -> Tensor:
        """`[room, D]`; words come from the frozen embedding."""
        soft = self.soft.virtual()
        with torch.no_grad():
            words = self.embedding[0].forward(self.words.to(soft.device))
        return torch.cat([soft, words.to(soft.dtype)])[torch.tensor(self.order, device=soft.device)]

    def kept(self) -> dict[str, Tensor]:
        """The soft tokens alone."""
        return self.soft.kept()


def verbalised(model: PreTrainedModel, verbaliser: Mapping[str, str]) -> dict[str, int]:
    """Label to the id of its word.

    Raises:
        PlanError: fewer than two labels, a word that is not one token, or one word for two labels
            (E-METHOD-VERBALISER).
    """
    if len(verbaliser) < 2:
        raise _refusal(
            f"a template with {MASK} needs words for two or more labels; it has {len(verbaliser)}.",
            "Give `verbaliser: {LABEL: word, ...}`, or train on data whose answers are labels.",
        )
    tokenizer, found = loaded_of(model).tokenizer, dict[str, int]()
    for label, word in verbaliser.items():
        ids = _ids(f" {word.strip()}", tokenizer)
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            pieces = ", ".join(repr(piece) for piece in tokenizer.convert_ids_to_tokens(ids))
            raise _refusal(
                f"'{word}', which stands for the label '{label}', is no single token of this model ({pieces}).",
                "Choose a common word for it in `verbaliser`.",
            )
        if ids[0] in found.values():
            raise _refusal(f"the word '{word}' stands for two labels.", "Choose another word in `verbaliser`.")
        found[label] = ids[0]
    return found


def _plain(template: Template, kind: str) -> bool:
    """Whether it needs no tokenizer: it has no words and stands in no frame."""
    if kind == "encoder":
        return False
    if kind == "encoder_decoder":
        return is_text(template.parts[-1]) and all(isinstance(part, int) for part in template.parts[:-1])
    return all(isinstance(part, int) or is_text(part) for part in template.parts)


def _frame(tokenizer: Any) -> tuple[int, int]:
    before, behind = frame(tokenizer)
    return len(before), len(behind)


def words_in(text: str, tokenizer: Any) -> int:
    """Tokens of the words and the mask of a template, as they stand around a text."""
    parts = [part for part in enumerate(read_template(text).parts) if not is_text(part[1])]
    words = [(place, part) for place, part in parts if isinstance(part, str)]
    return sum(1 if part == MASK else len(_ids(part, tokenizer, first=place == 0)) for place, part in words)


def _ids(text: str, tokenizer: Any, *, first: bool = False) -> list[int]:
    ids: Sequence[int] = tokenizer(text.lstrip() if first else text, add_special_tokens=False)["input_ids"]
    return list(ids)


def _mask_id(tokenizer: Any) -> int:
    if tokenizer.mask_token_id is None:
        raise PlanError(
            f"this model's tokenizer has no mask token for {MASK}.",
            code="E-METHOD-TEMPLATE",
            where={"key": "template"},
            fix="Use a masked language model such as BERT or RoBERTa.",
        )
    return int(tokenizer.mask_token_id)


def _refusal(what: str, fix: str) -> PlanError:
    return PlanError(what, code="E-METHOD-VERBALISER", where={"key": "verbaliser"}, fix=fix)
