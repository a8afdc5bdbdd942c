"""TRL's supervised trainer with PEFT's LoRA, one step at a time."""

from __future__ import annotations

import json
import sys

from trl import SFTConfig, SFTTrainer

from benchmarks.peers.pipe import Turns
from benchmarks.peers.trl_common import InOrder, race


class Trainer(InOrder, SFTTrainer):  # type: ignore[misc]
    """On rows in the order given."""


if __name__ == "__main__":
    pipe = Turns()
    race(json.loads(sys.argv[1]), pipe, SFTConfig, Trainer, completion_only_loss=True, logging_first_step=True)
    pipe.wait()
