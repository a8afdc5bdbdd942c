"""Unsloth's model under TRL's supervised trainer as Unsloth patches it, one turn at a time.

Its fastest form: weights in bfloat16, without checkpointing, no dropout and no biases, for which its kernels are
written; whether batches are padded is left to it. It has to be imported before the libraries that it patches.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")

import unsloth
from trl import SFTConfig, SFTTrainer

from benchmarks.peers.pipe import Turns
from benchmarks.peers.trl_common import InOrder, arguments, run

MAPS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Trainer(InOrder, SFTTrainer):  # type: ignore[misc]
    """On rows in the order given."""


if __name__ == "__main__":
    pipe, settings = Turns(), json.loads(sys.argv[1])
    rows = json.loads(Path(settings["rows"]).read_text(encoding="utf-8"))
    longest = max(len(row["input_ids"]) for row in rows)
    model, _ = unsloth.FastLanguageModel.from_pretrained(
        settings["model"],
        max_seq_length=longest,
        dtype=None,
        load_in_4bit=False,
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=settings["rank"],
        lora_alpha=2 * settings["rank"],
        lora_dropout=0.0,
        bias="none",
        target_modules=MAPS,
        use_gradient_checkpointing=False,
    )
    given = {**arguments(settings, len(rows)), "max_length": longest, "completion_only_loss": True}
    run(settings, pipe, SFTConfig(**given, logging_first_step=True), Trainer, rows, {"model": model})
    pipe.wait()
