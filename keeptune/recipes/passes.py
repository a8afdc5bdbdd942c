"""How often `keeptune init` lets a recipe go through its data: few rows several times, a library less than once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeptune.core.errors import KeeptuneError
from keeptune.core.example import Example
from keeptune.planning.time import Work
from keeptune.stages.train import Train

MOST_STEPS = 1500
SAMPLE_LETTERS = 200_000
LETTERS_PER_TOKEN = 4.0


@dataclass(frozen=True)
class Passes:
    """What a recipe goes through.

    Attributes:
        tokens: of the task, about: counted on the first 200,000 letters, scaled to all.
        epochs: 3 below 5,000 rows, else 2, and less when that would take more than 1,500 steps.
        steps: optimiser steps.
    """

    tokens: int
    epochs: float
    steps: int


def passes_of(examples: Sequence[Example], tokenizer: Any | None, *, share: float, batch_tokens: int) -> Passes:
    """Passes over the task: steps = epochs * tokens / (share * batch_tokens).

    Args:
        examples: of the task.
        tokenizer: of the model; None when it is not at hand: four letters a token.
        share: of the tokens of a batch that are the task's.
        batch_tokens: of one step.
    """
    tokens = max(1, round(sum(map(_letters, examples)) * _tokens_per_letter(examples, tokenizer)))
    return passes_over(tokens, len(examples), share=share, batch_tokens=batch_tokens)


def passes_over(tokens: int, rows: int, *, share: float, batch_tokens: int) -> Passes:
    """The same, where the tokens are counted; those of an image are its pixels."""
    epochs: float = 3 if rows < 5000 else 2
    per_epoch = tokens / (share * batch_tokens)
    if epochs * per_epoch > MOST_STEPS:
        epochs = max(0.01, float(f"{MOST_STEPS / per_epoch:.2g}"))
    return Passes(tokens, epochs, max(1, round(epochs * per_epoch)))


def minutes_of(recipe: str | Path, steps: int) -> float | None:
    """About how long the first train stage takes here; None when the model is not at hand."""
    from keeptune.models.load import look
    from keeptune.recipes.jobs import Batches, base_of, job_of
    from keeptune.recipes.plan import product_rate
    from keeptune.recipes.recipe import load_recipe

    loaded = load_recipe(recipe)
    stage = next(stage for stage in loaded.stages if isinstance(stage, Train))
    try:
        config, _ = look(loaded.model.name, loaded.model.revision)
        work = Work(steps * stage.batch_tokens, steps * stage.batch_tokens)
        batches = Batches(stage.batch_tokens, stage.batch_tokens, stage.batch_tokens, 1, work)
        rate = product_rate("cpu", loaded.model.checkpoint.dtype)
        return job_of(stage, base_of(loaded.model, config), batches).minutes(rate)
    except KeeptuneError:
        return None


def tokenizer_of(model: str) -> Any | None:
    """The model's tokenizer, or None when the model is not at hand."""
    from keeptune.models.load import look

    try:
        return look(model)[1]
    except KeeptuneError:
        return None


def _tokens_per_letter(examples: Sequence[Example], tokenizer: Any | None) -> float:
    if tokenizer is None:
        return 1 / LETTERS_PER_TOKEN
    letters = tokens = 0
    for example in examples:
        text = _text(example)[: SAMPLE_LETTERS - letters]
        letters += len(text)
        tokens += len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if letters >= SAMPLE_LETTERS:
            break
    return tokens / max(1, letters)


def _text(example: Example) -> str:
    return example.text if example.text is not None else "\n".join(turn.content for turn in example.messages)


def _letters(example: Example) -> int:
    return len(_text(example))
