"""What TRL's trainers have in common here: rows in order, PEFT's LoRA on all linear maps, one step at a time.

Run by the parent with the interpreter of the peer's environment, through TRL's public interface. The rows are tokenised
already, so what is timed is TRL's own loop: its collator, its loss, its optimiser, its clipping.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer

from benchmarks.peers.pipe import Turns
from benchmarks.peers.same_start import same_start
from benchmarks.peers.stepwise import Stepwise


class InOrder:
    """Beside a trainer: rows in the order given, so that every contestant sees the same batch in the same round."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]


def lora(rank: int) -> LoraConfig:
    """On all linear maps, as the train stage has it by default."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")


def race(settings: dict[str, Any], turns: Turns, config: Any, trainer: Any, **own: Any) -> None:
    """Builds the trainer and lets it run; it ends when the parent stops asking.

    Args:
        settings: `model` (a folder), `rows` (a file), `rank`, `batch`, `lr`, `dtype` of the weights, or None for
            TRL's own choice, and `config`: further settings of the trainer.
        turns: the pipe.
        config: class of the trainer's settings.
        trainer: class of the trainer.
        own: settings of this kind of trainer.
    """
    rows = json.loads(Path(settings["rows"]).read_text(encoding="utf-8"))
    given = {**own, **settings["config"]}
    if settings["dtype"] is not None:
        given = {**given, "model_init_kwargs": {"dtype": settings["dtype"]}}
    asked = config(
        output_dir=settings["output"],
        per_device_train_batch_size=settings["batch"],
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        max_steps=len(rows) // settings["batch"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **given,
    )
    running = trainer(
        model=settings["model"],
        args=asked,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(settings["model"]),
        peft_config=lora(settings["rank"]),
        callbacks=[Stepwise(turns)],
    )
    same_start(running.model.named_parameters())
    turns.answer(versions={name: version(name) for name in ("trl", "peft", "transformers", "torch")})
    running.train()
