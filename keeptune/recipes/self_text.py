"""Text in the base's own words: the replay source of those who have no general data at hand.

Some of the rows are documents, begun from the opening token alone. Some are conversations: the base is given what the
template writes before a user's words and makes up the request, then it answers it (Magpie does so, arXiv:2406.08464).
A model without a chat template writes documents only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.counting import counted
from keeptune.core.digest import digest_of
from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.core.files import atomic_write, make_folder
from keeptune.data.formats.generated import Generated

if TYPE_CHECKING:
    from keeptune.models.load import Loaded

DRAWS = 16
"""Texts that are drawn at most for each row that is wanted: some of what a model writes is of no use."""
SHORTEST = 16
REQUEST_SHARE = 4
"""A request may take this part of the longest row, the answer the rest."""


def self_text(
    loaded: Loaded, settings: Generated, name: str, *, seed: int, cache: Path, say: Callable[[str], None]
) -> tuple[Example, ...]:
    """The rows of a generated source; read from the cache when the same base wrote them before.

    Args:
        loaded: the base, with nothing attached or active.
        settings: rows, longest row, temperature.
        name: of the source.
        seed: of the samples.
        cache: folder of what can be made again.
        say: told what is going on.

    Raises:
        DataError: the base writes nothing usable (E-DATA-GENERATED).
    """
    key = digest_of([3, loaded.fingerprint, str(loaded.dtype), settings.to_dict(), seed])
    file = cache / f"generated-{key[:24]}.jsonl"
    if not file.is_file():
        say(f"{counted(settings.rows, 'row')} of the base's own text")
        rows = _write(loaded, settings, seed)
        if not rows:
            raise DataError(
                f"the base wrote nothing that could be replayed as '{name}'.",
                code="E-DATA-GENERATED",
                where={"key": f"data.{name}"},
                fix="Name a file of general data for it, for example format: plain_text.",
            )
        if len(rows) < settings.rows:
            say(
                f"{counted(len(rows), 'row')} of the base's own text: in {DRAWS} times as many draws it wrote no more "
                "of use"
            )
        make_folder(cache)
        atomic_write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    with file.open(encoding="utf-8") as lines:
        return tuple(_example(json.loads(line), name, number) for number, line in enumerate(lines, start=1))


def _write(loaded: Loaded, settings: Generated, seed: int) -> list[dict[str, Any]]:
    from keeptune.data.encode import Encoder

    encoder = Encoder(loaded.tokenizer)
    chats = round(settings.rows * settings.chats) if loaded.tokenizer.chat_template else 0
    documents = _until_enough(
        lambda count, draw: _documents(loaded, settings, count, draw), settings.rows - chats, seed
    )
    return documents + _until_enough(
        lambda count, draw: _chats(loaded, encoder, settings, count, draw), chats, seed + 1
    )


def _until_enough(make: Callable[[int, int], Iterable[dict[str, Any]]], wanted: int, seed: int) -> list[dict[str, Any]]:
    """Different rows, at most `wanted`: each round draws as many texts as the share of use so far asks for."""
    found: dict[str, dict[str, Any]] = {}
    drawn = turn = 0
    while len(found) < wanted and drawn < DRAWS * wanted:
        share = max(len(found), 1) / drawn if drawn else 1.0
        count = min(math.ceil((wanted - len(found)) / share), DRAWS * wanted - drawn)
        for row in make(count, 1000 * seed + turn):
            found.setdefault(json.dumps(row), row)
        drawn, turn = drawn + count, turn + 1
    return list(found.values())[:wanted]


def _sample(
    loaded: Loaded, starts: list[list[int]], settings: Generated, longest: int, seed: int, *, ended: bool
) -> list[str]:
    """One text per start, up to the first special token; with `ended`, empty where none came in `longest` tokens."""
    from keeptune.data.encode import Encoder
    from keeptune.engine.generation import answer_limits, generate
    from keeptune.engine.rows import off

    stops = {*loaded.tokenizer.all_special_ids, *Encoder(loaded.tokenizer).stop_ids()}
    with off(loaded.model):
        limits = answer_limits(loaded.model, starts, longest)
        made = generate(
            loaded.model, loaded.tokenizer, starts, max_new_tokens=longest, stop_ids=stops,
            temperature=settings.temperature, seed=seed, batch_tokens=32_768,
        )  # fmt: skip
    return [
        loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip() if len(tokens) < limit or not ended else ""
        for tokens, limit in zip(made, limits, strict=True)
    ]


def _documents(loaded: Loaded, settings: Generated, count: int, seed: int) -> Iterable[dict[str, Any]]:
    tokenizer = loaded.tokenizer
    opening = next(token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if token is not None)
    for text in _sample(loaded, [[opening]] * count, settings, settings.max_tokens, seed, ended=False):
        if len(text) >= SHORTEST:
            yield {"text": text}


def _chats(loaded: Loaded, encoder: Any, settings: Generated, count: int, seed: int) -> Iterable[dict[str, Any]]:
    rendered = encoder.chat.render([Message("user", "Why?")], prompt=True)
    start = encoder.chat.control.encode(rendered.text[: rendered.contents[0][0]], [])[0]
    short = max(8, settings.max_tokens // REQUEST_SHARE)
    found = _sample(loaded, [start] * count, settings, short, seed, ended=True)
    requests = [request for request in found if request]
    prompts = [encoder.prompt([Message("user", request)]) for request in requests]
    answers = _sample(loaded, prompts, settings, settings.max_tokens - short, seed + 500, ended=True)
    for request, answer in zip(requests, answers, strict=True):
        if answer:
            yield {"request": request, "answer": answer}


def _example(row: dict[str, Any], name: str, number: int) -> Example:
    if "text" in row:
        return Example(f"{name}-{number}", text=row["text"], source=name)
    turns = (Message("user", row["request"]), Message("assistant", row["answer"]))
    return Example(f"{name}-{number}", messages=turns, source=name)
