"""TRL's supervised trainer with PEFT's LoRA from start to end, at its fastest setting; saves the adapter.

Run with the interpreter of the peer's environment: `python -m benchmarks.peers.trl_whole SETTINGS`, plain data with
`prepared` (the folder that `benchmarks.grid` wrote), `lr` and `output`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from benchmarks.peers.trl_common import lora


def main(settings: dict[str, Any]) -> None:
    """Trains and saves."""
    prepared = Path(settings["prepared"])
    plan = json.loads((prepared / "plan.json").read_text(encoding="utf-8"))
    rows = json.loads((prepared / "rows.json").read_text(encoding="utf-8"))
    config = SFTConfig(
        output_dir=settings["output"] + ".trainer",
        per_device_train_batch_size=plan["batch"],
        num_train_epochs=plan["epochs"],
        learning_rate=settings["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=0.03,  # below 1: a share
        completion_only_loss=True,
        gradient_checkpointing=False,
        bf16=plan["dtype"] == "bfloat16",
        model_init_kwargs={"dtype": plan["dtype"]},
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SFTTrainer(
        model=plan["model"],
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(plan["model"]),
        peft_config=lora(plan["rank"]),
    )
    trainer.train()
    trainer.model.save_pretrained(settings["output"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
