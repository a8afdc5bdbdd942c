"""Text in the base's own words: the replay source of those who have no general data at hand.

Half of the rows are documents, begun from the opening token alone. Half are conversations: the base is given what the
template writes before a user's words, and goes on by itself, request and answer (as Magpie does, arXiv:2406.08464).
A model without a chat template writes documents only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.digest import digest_of
from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.core.files import atomic_write, make_folder
from keeptune.data.formats.generated import Generated

if TYPE_CHECKING:
    from keeptune.models.load import Loaded

ROUNDS = 4
SHORTEST = 16


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
    key = digest_of([1, loaded.fingerprint, str(loaded.dtype), settings.to_dict(), seed])
    file = cache / f"generated-{key[:24]}.jsonl"
    if not file.is_file():
        say(f"{settings.rows} rows of the base's own text")
        rows = _write(loaded, settings, seed)
        if not rows:
            raise DataError(
                f"the base wrote nothing that could be replayed as '{name}'.",
                code="E-DATA-GENERATED",
                where={"key": f"data.{name}"},
                fix="Name a file of general data for it, for example format: plain_text.",
            )
        make_folder(cache)
        atomic_write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    with file.open(encoding="utf-8") as lines:
        return tuple(_example(json.loads(line), name, number) for number, line in enumerate(lines, start=1))


def _write(loaded: Loaded, settings: Generated, seed: int) -> list[dict[str, Any]]:
    from keeptune.data.encode import Encoder

    encoder = Encoder(loaded.tokenizer)
    chats = settings.rows // 2 if loaded.tokenizer.chat_template else 0
    documents = _until_enough(
        lambda count, draw: _documents(loaded, settings, count, draw), settings.rows - chats, seed
    )
    return documents + _until_enough(
        lambda count, draw: _chats(loaded, encoder, settings, count, draw), chats, seed + 1
    )


def _until_enough(make: Callable[[int, int], Iterable[dict[str, Any]]], wanted: int, seed: int) -> list[dict[str, Any]]:
    """Different rows, at most `wanted`; a few rounds, because some of what a model writes is of no use."""
    found: dict[str, dict[str, Any]] = {}
    for turn in range(ROUNDS):
        if len(found) < wanted:
            for row in make(wanted - len(found), 1000 * seed + turn):
                found.setdefault(json.dumps(row), row)
    return list(found.values())[:wanted]


def _sample(loaded: Loaded, start: list[int], settings: Generated, count: int, seed: int, stops: set[int]) -> list[str]:
    from keeptune.engine.generation import generate
    from keeptune.engine.rows import off

    with off(loaded.model):
        made = generate(
            loaded.model, loaded.tokenizer, [start] * count, max_new_tokens=settings.max_tokens, stop_ids=stops,
            temperature=settings.temperature, seed=seed, batch_tokens=32_768,
        )  # fmt: skip
    return [loaded.tokenizer.decode(tokens, skip_special_tokens=False) for tokens in made]


def _documents(loaded: Loaded, settings: Generated, count: int, seed: int) -> Iterable[dict[str, Any]]:
    tokenizer = loaded.tokenizer
    opening = next(token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if token is not None)
    stops = {token for token in (tokenizer.eos_token_id, tokenizer.bos_token_id) if token is not None}
    special = set(tokenizer.all_special_tokens)
    for text in _sample(loaded, [opening], settings, count, seed, stops):
        clean = min((text.split(token)[0] for token in special), key=len, default=text).strip()
        if len(clean) >= SHORTEST:
            yield {"text": clean}


def _chats(loaded: Loaded, encoder: Any, settings: Generated, count: int, seed: int) -> Iterable[dict[str, Any]]:
    marker = "Why?"
    rendered = encoder.chat.render([Message("user", marker)], prompt=True)
    begin, end = rendered.contents[0]
    before, between = rendered.text[:begin], rendered.text[end:]
    start = encoder.chat.control.encode(before, [])[0]
    special = set(loaded.tokenizer.all_special_tokens)
    for text in _sample(loaded, start, settings, count, seed, encoder.stop_ids()):
        request, mark, answer = text.partition(between)
        clean = not any(token in request or token in answer for token in special)
        if mark and clean and request.strip() and answer.strip():
            yield {"request": request.strip(), "answer": answer.strip()}


def _example(row: dict[str, Any], name: str, number: int) -> Example:
    if "text" in row:
        return Example(f"{name}-{number}", text=row["text"], source=name)
    turns = (Message("user", row["request"]), Message("assistant", row["answer"]))
    return Example(f"{name}-{number}", messages=turns, source=name)
