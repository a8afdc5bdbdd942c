"""Rows encoded once: kept by what was read and what encodes it, for every run that shares the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.digest import digest_of
from keeptune.data.encode import Encoded, EncodedSet, Problem, encode_all
from keeptune.data.fitting import TooLong
from keeptune.data.fork import Fork
from keeptune.data.starts import Starts

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.core.example import Example

REVISION = 5
"""Raised when the same rows are encoded in another way."""
FEWEST = 500
"""Rows; fewer are encoded again sooner than they are read."""


def encoded_once(
    examples: Sequence[Example],
    tokenizer: Any,
    cache: Path | None,
    *,
    too_long: TooLong,
    context: int,
    template: str | None,
    kind: str,
    pairs: bool = False,
) -> EncodedSet:
    """As `encode_all`, read from `cache` where these rows were encoded before.

    Args:
        examples: of one source.
        tokenizer: a fast tokenizer of transformers.
        cache: the folder that runs share; None encodes.
        too_long: as `encode_all`.
        context: as `encode_all`.
        template: as `encode_all`.
        kind: as `encode_all`.
        pairs: as `encode_all`.

    Raises:
        DataError: as `encode_all`; nothing is kept then.
    """

    def encoded() -> EncodedSet:
        return encode_all(
            examples, tokenizer, too_long=too_long, context=context, template=template, kind=kind, pairs=pairs
        )

    if cache is None or len(examples) < FEWEST:
        return encoded()
    from keeptune.models.fingerprint import template_digest, tokenizer_digest
    from keeptune.models.tensor_store import TensorStore

    with_what = [tokenizer_digest(tokenizer), template_digest(tokenizer), template, kind, too_long, context, pairs]
    read = [[*_plain(example), example.rejected if pairs else None] for example in examples]
    key = digest_of([REVISION, _versions(), *with_what, read])
    return unpacked(TensorStore(cache / "encoded").once(key, lambda: packed(encoded())))


def packed(encoded: EncodedSet) -> dict[str, Tensor]:
    """As tensors: `tokens` and `learned` of all rows on end, `lengths`, and everything else as JSON in `about`."""
    import torch

    rows = encoded.rows
    about = {
        "ids": [row.id for row in rows],
        "sources": [row.source for row in rows],
        "answers": [row.answer for row in rows],
        "starts": [row.starts for row in rows],
        "forks": [row.fork for row in rows],
        "counts": dict(encoded.counts),
        "problems": [asdict(problem) for problem in encoded.problems],
        "notes": list(encoded.notes),
    }
    return {
        "tokens": torch.tensor([token for row in rows for token in row.tokens], dtype=torch.int32),
        "learned": torch.tensor([learned for row in rows for learned in row.learned], dtype=torch.bool),
        "lengths": torch.tensor([len(row.tokens) for row in rows], dtype=torch.int64),
        "about": torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8),
    }


def unpacked(tensors: dict[str, Tensor]) -> EncodedSet:
    """The rows that `packed` took."""
    about = json.loads(tensors["about"].numpy().tobytes())
    tokens, learned = tuple(tensors["tokens"].tolist()), tuple(tensors["learned"].tolist())
    ends = list(accumulate(tensors["lengths"].tolist(), initial=0))
    told = (about[key] for key in ("ids", "sources", "answers", "starts", "forks"))
    rows = tuple(
        Encoded(
            name, source, tokens[start:end], learned[start:end], answer,
            Starts(*map(tuple, starts)), None if fork is None else Fork(*fork),
        )
        for (start, end), name, source, answer, starts, fork in zip(pairwise(ends), *told, strict=True)
    )  # fmt: skip
    problems = tuple(Problem(**problem) for problem in about["problems"])
    return EncodedSet(rows, about["counts"], problems, tuple(about["notes"]))


def _plain(example: Example) -> list[Any]:
    """What the encoder and its problems read of a row."""
    turns = [turn.to_dict() for turn in example.messages]
    return [example.id, example.source, example.line, example.text, turns]


def _versions() -> list[str]:
    from importlib.metadata import version

    return [version(name) for name in ("transformers", "tokenizers")]
