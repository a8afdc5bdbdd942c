"""Templates of P-tuning: soft tokens, words, the mask and the row's own text, in any order.

    {soft:3} {text} {soft:3} It was {mask}.
    {text:premise} {soft:2} {mask} {soft:2} {text:hypothesis}

`{text}` is the request of a row; where a row has several texts, each stands once, in their order. Everything else
becomes vectors before, between or behind them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError, did_you_mean
from keeptune.data.text_encoder import frame
from keeptune.engine.template_slot import Around
from keeptune.methods._encoded_prompt import EncodedPrompt
from keeptune.models.load import loaded_of

SLOT = re.compile(r"\{([^{}]*)\}")
MASK, TEXT = "{mask}", "{text}"
KNOWN = ("soft:3", "text", "mask")


@dataclass(frozen=True)
class Template:
    """A template, read.

    Attributes:
        parts: in order: numbers of soft tokens, words, `MASK`, and the texts as they are written.
    """

    parts: tuple[int | str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the texts; that of `{text}` is empty."""
        return tuple(str(part)[6:-1] for part in self.parts if is_text(part))

    @property
    def soft(self) -> int:
        """Soft tokens p."""
        return sum(part for part in self.parts if isinstance(part, int))

    @property
    def masks(self) -> int:
        """Masks: one or none."""
        return self.parts.count(MASK)

    @property
    def room(self) -> int:
        """About how many vectors: a word counts one."""
        words = (part for part in self.parts if not is_text(part))
        return sum(len(part.split()) if isinstance(part, str) else part for part in words)


def read_template(text: str) -> Template:
    """Reads a template.

    Raises:
        ValueError: it has an unknown part, no text, texts that are not told apart, more than one `{mask}`, or no soft
            token.
    """
    parts: list[int | str] = []
    end = 0
    for found in SLOT.finditer(text):
        parts += _words(text[end : found.start()])
        parts.append(_slot(found[1]))
        end = found.end()
    template = Template((*parts, *_words(text[end:])))
    names = template.texts
    if not names:
        raise ValueError(f"a template has {TEXT}, for the row's own text; this one has none")
    if len(names) > 1 and (len(set(names)) < len(names) or "" in names):
        raise ValueError(
            f"a template has {TEXT} once, for the row's own text; several are told apart by their columns' names, "
            "{text:premise} and {text:hypothesis}"
        )
    if template.masks > 1:
        raise ValueError(f"a template has {MASK} at most once; this one has it {template.masks} times")
    if not template.soft:
        raise ValueError("a template has soft tokens, such as {soft:3}: nothing else of it is trained")
    return template


def _slot(inside: str) -> int | str:
    name, colon, rest = inside.partition(":")
    if name == "soft" and rest.isdigit() and 1 <= int(rest) <= 4096:
        return int(rest)
    if inside in ("text", "mask") or (name == "text" and rest.strip()):
        return f"{{{name}{colon}{rest.strip()}}}"
    raise ValueError(f"'{{{inside}}}' is no part of a template. {did_you_mean(inside, KNOWN)}")


def is_text(part: int | str) -> bool:
    """Whether a part of a template is a text of the row."""
    return isinstance(part, str) and part.startswith(TEXT[:-1])


def _words(text: str) -> list[int | str]:
    """A piece of literal text; blanks at its end belong to what follows."""
    return [text.rstrip()] if text.strip() else []


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
