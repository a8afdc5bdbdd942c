"""Writing a model as a plain Hugging Face folder, adapters left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from keeptune.models.image_scale import copy_scale

if TYPE_CHECKING:
    from keeptune.models.load import Loaded


def save_model(loaded: Loaded, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Writes weights and configuration, and the tokenizer or what scales images.

    Args:
        loaded: what is written.
        folder: is there already.
        state_dict: its weights; unset: all that it has.
    """
    with _without_bars():
        loaded.model.save_pretrained(folder, state_dict=state_dict)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(folder)
    copy_scale(loaded.path, folder)


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
