"""Tokens that steer the model, and an encoding in which only the template may write them.

A user who types `<|end|>` must not end the turn. Text of the conversation is therefore encoded with a copy of the
tokenizer in which every control token has a private name; the template's own control tokens are written under
that name. The rest of the copy is the tokenizer itself, so all other ids are equal.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keeptune.core.errors import DataError, ModelError

Span = tuple[int, int]
# The lower half of plane 16; its upper half marks turns (see `marks`).
FIRST_ALIAS = 0x100000
FILLER = chr(0x107FFF)
ALIAS = re.compile(f"[{chr(FIRST_ALIAS)}-{FILLER}]")


@dataclass(frozen=True)
class Written:
    """A text, and the tokenizer of the library below transformers that encodes it as it is meant.

    Attributes:
        backend: that tokenizer.
        text: as it takes it.
        places: whether each token's characters are needed; without them it takes nine tenths to three quarters of the
            time.
    """

    backend: Any
    text: str
    places: bool = True


class ControlTokens:
    """The control tokens of one tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
        written: text that the chat template writes; added tokens in it count as control tokens even when the
            tokenizer does not flag them as special (role markers of some models), save for the marks of thinking.

    Raises:
        ModelError: the tokenizer has no fast backend (E-TOKENIZER-SLOW).
    """

    def __init__(self, tokenizer: Any, written: str = "") -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json.",
                code="E-TOKENIZER-SLOW",
                why="Which tokens are learned is found through the character positions that only fast tokenizers give.",
                fix="Save it once as a fast tokenizer: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).",
            )
        self.tokenizer = tokenizer
        self.ids: dict[str, int] = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content in written and "think" not in token.content)
        }
        longest_first = sorted(self.ids, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._aliases = {
            text: chr(FIRST_ALIAS + number) + FILLER * (len(text) - 1) for number, text in enumerate(self.ids)
        }
        self._renamed: Any = None

    def encode(self, text: str, contents: Sequence[Span] = ()) -> tuple[list[int], list[Span]]:
        """Token ids of `text` and the characters that each covers.

        Args:
            text: rendered text.
            contents: spans in which a control token's text is text.

        Returns:
            Ids without any added by a post-processor, and spans [start, end) that leave no white space uncovered.
        """
        [encoding] = encodings([self.written(text, contents)])
        return encoding.ids, _without_gaps(encoding.offsets, text)

    def ids_of(self, text: str, contents: Sequence[Span] = ()) -> list[int]:
        """As `encode`, without the characters: several times faster on long documents."""
        [encoding] = encodings([replace(self.written(text, contents), places=False)])
        ids: list[int] = encoding.ids
        return ids

    def written(self, text: str, contents: Sequence[Span] = ()) -> Written:
        """`text` as `encodings` takes it.

        Raises:
            DataError: a control token's text stands in the contents, beside the characters that tell it from a control
                token (E-DATA-TEXT).
        """
        if self._imitated(text, contents):
            return Written(self._renamed_copy(), self._with_aliases(text, contents))
        backend = self.tokenizer.backend_tokenizer
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        return Written(backend, text)

    def _imitated(self, text: str, contents: Sequence[Span]) -> bool:
        return any(self.pattern.search(text, start, end) for start, end in contents)

    def _with_aliases(self, text: str, contents: Sequence[Span]) -> str:
        if ALIAS.search(text):
            raise DataError(
                "the text uses private characters of plane 16 beside a control token's text.",
                code="E-DATA-TEXT",
                fix="Take these characters out.",
            )
        pieces, before = [], 0
        for start, end in contents:
            pieces += [self.pattern.sub(self._alias, text[before:start]), text[start:end]]
            before = end
        return "".join([*pieces, self.pattern.sub(self._alias, text[before:])])

    def _alias(self, found: re.Match[str]) -> str:
        return self._aliases[found.group()]

    def _renamed_copy(self) -> Any:
        if self._renamed is None:
            self._renamed = self._renaming()
        return self._renamed

    def _renaming(self) -> Any:
        from tokenizers import Tokenizer

        plain = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for token in plain["added_tokens"]:
            token["content"] = self._aliases.get(token["content"], token["content"])
        model = plain["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {self._aliases.get(text, text): number for text, number in vocabulary.items()}
        else:
            model["vocab"] = [[self._aliases.get(text, text), score] for text, score in vocabulary]
        if model.get("unk_token") in self._aliases:
            model["unk_token"] = self._aliases[model["unk_token"]]
        plain.update(post_processor=None, truncation=None, padding=None)
        copy = Tokenizer.from_str(json.dumps(plain))
        moved = [text for text, number in self.ids.items() if copy.token_to_id(self._aliases[text]) != number]
        assert not moved, f"renaming moved the ids of {moved}"
        return copy


def encodings(texts: Sequence[Written]) -> list[Any]:
    """What the library below the tokenizer makes of each text, without tokens that a post-processor adds.

    The tokenizer's own call adds a third to the time with what batches of equal length need.

    Args:
        texts: in any order; those of one tokenizer are encoded together, on all processors.
    """
    found: list[Any] = [None] * len(texts)
    groups: dict[tuple[int, bool], list[int]] = {}
    for at, text in enumerate(texts):
        groups.setdefault((id(text.backend), text.places), []).append(at)
    for own in groups.values():
        first = texts[own[0]]
        encode = first.backend.encode_batch if first.places else first.backend.encode_batch_fast
        for place, made in zip(own, encode([texts[at].text for at in own], add_special_tokens=False), strict=True):
            found[place] = made
    return found


def tokens_within(encoding: Any, text: str, span: Span) -> range:
    """The tokens that cover a letter of the span: from the first that reaches in to the last that begins in it.

    A token without letters belongs to where it stands. No token begins or ends before the one in front of it, so both
    are found by bisection, and the characters of a few tokens are looked at. As in `ControlTokens.encode`, a gap of
    white space belongs to the token after it.
    """
    first, last = span

    def start(place: int) -> int:
        own: int = encoding.token_to_chars(place)[0]
        before: int = encoding.token_to_chars(place - 1)[1] if place else 0
        return before if before < own and text[before:own].isspace() else own

    def reaches(place: int) -> bool:
        return bool(encoding.token_to_chars(place)[1] > first) or start(place) >= first

    places = range(len(encoding))
    behind = bisect_left(places, last, key=start)
    return range(bisect_left(places, True, hi=behind, key=reaches), behind)


def _without_gaps(spans: Sequence[Span], text: str) -> list[Span]:
    """Byte-level post-processors trim white space off the spans; each gap of white space goes to the token after it."""
    filled, reached = [], 0
    for start, end in spans:
        first = reached if reached < start and text[reached:start].isspace() else start
        filled.append((first, end))
        reached = max(reached, end)
    return filled
