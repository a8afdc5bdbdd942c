"""From rows of any format to masked, packed tokens; nothing here runs a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeptune.core.example import Example, Message
from keeptune.data.encode import encode as _encode


def encode(
    example: Example | Sequence[Message | Mapping[str, Any]], tokenizer: Any, template: str | None = None
) -> dict[str, list[int]]:
    """A conversation or an Example as `input_ids` and `labels` (-100 where nothing is learned; not shifted).

    Loss falls on every assistant turn and its end-of-turn token; a document is learned whole.

    Args:
        example: turns as `{"role", "content"}` mappings or Messages, or an Example.
        tokenizer: a fast tokenizer of transformers.
        template: `plain` for `User:` / `Assistant:` lines; otherwise the tokenizer's own chat template.

    Raises:
        DataError: the template leaves a turn out or cannot write the conversation.
        ModelError: the template never ends a turn, or the tokenizer is not a fast one.
    """
    encoded = _encode(example, tokenizer, template)
    return {"input_ids": list(encoded.tokens), "labels": encoded.labels}


__all__ = ["encode"]
