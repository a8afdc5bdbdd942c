"""Writing a model as a plain Hugging Face folder, adapters left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging


def save_model(
    model: PreTrainedModel, tokenizer: Any, folder: Path, state_dict: dict[str, Tensor] | None = None
) -> None:
    """Writes weights, configuration and tokenizer.

    Args:
        model: what is written.
        tokenizer: None of an image encoder.
        folder: is there already.
        state_dict: its weights; unset: all that it has.
    """
    with _without_bars():
        model.save_pretrained(folder, state_dict=state_dict)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


@contextmanager
def _without_bars() -> Iterator[None]:
    """No bar: transformers draws one even for one small file."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
