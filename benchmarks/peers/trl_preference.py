"""TRL's preference trainer (DPO) with PEFT's LoRA, one step at a time; both of its forward passes count."""

from __future__ import annotations

import json
import sys
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from benchmarks.peers.pipe import Turns
from benchmarks.peers.trl_common import InOrder, race


class Trainer(InOrder, DPOTrainer):  # type: ignore[misc]
    """On tokenised pairs in the order given."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


if __name__ == "__main__":
    pipe, asked = Turns(), json.loads(sys.argv[1])
    race(asked, pipe, DPOConfig, Trainer, beta=asked["losses"][0]["beta"], max_length=None, logging_steps=1)
    pipe.wait()
