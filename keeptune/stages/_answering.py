"""Prompts that a checkpoint answers while a stage runs: chunk by chunk, each in a file, so that nothing is asked twice.

The folder of the answers is named by all that decides them: the weights, the prompts, how they are sampled. A stage
that is killed goes on from its last chunk; one that finds answers of another model or to other prompts asks again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

from keeptune.core.digest import digest_of, folder_digest
from keeptune.core.errors import Interrupted
from keeptune.core.files import atomic_write, delete, make_folder
from keeptune.data.encoder import Request

if TYPE_CHECKING:
    from keeptune.core.checkpoint import Checkpoint
    from keeptune.data.encode import Encoded
    from keeptune.models.load import Loaded
    from keeptune.stages import StageWork

CHUNK = 256
"""Prompts between two commits."""

Answers = dict[str, str | None]


def answered(
    loaded: Loaded,
    checkpoint: Checkpoint,
    work: StageWork,
    label: str,
    prompts: Mapping[str, Request],
    *,
    max_new_tokens: int,
    rounds: int = 1,
    temperature: float = 0.0,
) -> list[Answers]:
    """The answers to all prompts, once for each round, by the names of the prompts; every adapter is active.

    Args:
        loaded: the checkpoint, opened.
        checkpoint: whose adapters answer.
        work: of the stage; the answers stand in its folder.
        label: of the stage.
        prompts: by their names.
        max_new_tokens: an answer that has not ended by then is None, as an empty one is.
        rounds: how often everything is asked.
        temperature: 0 takes the most likely token; the rounds are then the same.

    Raises:
        Interrupted: a signal; finished chunks are kept (E-RUN-INTERRUPTED).
    """
    how = [work.seed, label, max_new_tokens, temperature, work.template]
    who = [loaded.fingerprint, str(loaded.dtype), [folder_digest(ref.path) for ref in checkpoint.adapters]]
    key = digest_of([how, who, [[name, list(one.tokens), list(one.starts)] for name, one in prompts.items()]])[:24]
    folder = work.folder / "answers" / key
    make_folder(folder)
    for other in folder.parent.iterdir():
        if other != folder:
            delete(other)
    chunks = _chunks(prompts)
    files = {(turn, place): folder / f"{turn}-{place}.json" for turn in range(rounds) for place in range(len(chunks))}
    missing = [one for one, file in files.items() if not file.is_file()]
    with work.progress.track(label, len(files), len(files) - len(missing)) as track:
        for turn, place in missing:
            seed = int(digest_of([work.seed, label, turn, place])[:12], 16)
            found = _written(loaded, checkpoint, work, chunks[place], max_new_tokens, temperature, seed)
            atomic_write(files[turn, place], json.dumps(found, ensure_ascii=False))
            track.advance()
            if work.run.stop_requested.is_set():
                raise Interrupted(
                    "stopped by a signal; the answers so far are kept.",
                    code="E-RUN-INTERRUPTED",
                    fix="Run the same command again to go on.",
                )
    turns: list[Answers] = [{} for _ in range(rounds)]
    for (turn, _), file in files.items():
        turns[turn] |= json.loads(file.read_text(encoding="utf-8"))
    return turns


def question_tokens(row: Encoded) -> tuple[int, ...]:
    """What comes before the last learned run of a row: the conversation up to the last answer."""
    last = max(place for place, learned in enumerate(row.learned) if learned)
    while row.learned[last - 1]:
        last -= 1
    return row.tokens[:last]


def request_of(row: Encoded) -> Request:
    """What its last answer answers."""
    tokens = question_tokens(row)
    return Request(tokens, row.starts.within(len(tokens)))


def _chunks(prompts: Mapping[str, Request]) -> list[dict[str, Request]]:
    left = iter(prompts.items())
    chunks = []
    while chunk := dict(islice(left, CHUNK)):
        chunks.append(chunk)
    return chunks


def _written(
    loaded: Loaded,
    checkpoint: Checkpoint,
    work: StageWork,
    prompts: Mapping[str, Request],
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Answers:
    import torch

    from keeptune.data.encode import stop_ids
    from keeptune.engine.generation import answer_limits, generate
    from keeptune.engine.rows import active

    tokenizer = loaded.tokenizer
    loaded.model.eval()
    with torch.no_grad(), active(loaded.model, tuple(ref.name for ref in checkpoint.adapters) or None):
        asked = [one.tokens for one in prompts.values()]
        limits = answer_limits(loaded.model, asked, max_new_tokens)
        made = generate(
            loaded.model,
            tokenizer,
            asked,
            starts=[one.starts for one in prompts.values()],
            max_new_tokens=max_new_tokens,
            stop_ids={*tokenizer.all_special_ids, *stop_ids(tokenizer, work.template)},
            temperature=temperature,
            seed=seed,
            batch_tokens=32_768,
        )
    texts = [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in made]
    ended = [len(tokens) < limit for tokens, limit in zip(made, limits, strict=True)]
    return {name: text if whole and text else None for name, text, whole in zip(prompts, texts, ended, strict=True)}
