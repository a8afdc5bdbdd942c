"""TRL's preference trainer (DPO) with PEFT's LoRA, one step at a time, through its public interface.

The pairs are tokenised already, so what is timed is TRL's own loop: its collator, both of its forward passes, its loss,
its optimiser, its clipping.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from benchmarks.peers.pipe import Turns
from benchmarks.peers.same_start import same_start
from benchmarks.peers.stepwise import Stepwise


class InOrder(DPOTrainer):  # type: ignore[misc]
    """The trainer on tokenised pairs in the order given."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main(settings: dict[str, Any], turns: Turns) -> None:
    """Builds the trainer and lets it run; it ends when the parent stops asking.

    Args:
        settings: as those of `trl_step`; `config` are further settings of DPOConfig.
        turns: the pipe.
    """
    rows = json.loads(Path(settings["rows"]).read_text(encoding="utf-8"))
    given = settings["config"]
    if settings["dtype"] is not None:
        given = {**given, "model_init_kwargs": {"dtype": settings["dtype"]}}
    config = DPOConfig(
        output_dir=settings["output"],
        per_device_train_batch_size=settings["batch"],
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        beta=settings["losses"][0]["beta"],
        max_length=None,
        max_steps=len(rows) // settings["batch"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **given,
    )
    trainer = InOrder(
        model=settings["model"],
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(settings["model"]),
        peft_config=LoraConfig(
            r=settings["rank"], lora_alpha=2 * settings["rank"], lora_dropout=0.0, target_modules="all-linear"
        ),
        callbacks=[Stepwise(turns)],
    )
    same_start(trainer.model.named_parameters())
    turns.answer(versions={name: version(name) for name in ("trl", "peft", "transformers", "torch")})
    trainer.train()


if __name__ == "__main__":
    pipe = Turns()
    main(json.loads(sys.argv[1]), pipe)
    pipe.wait()
