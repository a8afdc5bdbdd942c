"""A training session of the train stage on given batches, without a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from keeptune.core.spec import validate
from keeptune.data.encode import Encoded
from keeptune.losses import Loss
from keeptune.stages import Stage
from keeptune.stages._commits import Commits
from keeptune.stages._masters import Masters
from keeptune.stages._plan import Plan
from keeptune.stages._session import Counters, Session
from keeptune.stages._step import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from keeptune.core.run import Run

SOURCE, ADAPTER = "task", "lora"
WHOLE = 10_000_000


def encoded(rows: Sequence[dict[str, Any]]) -> list[Encoded]:
    """Rows of `input_ids` and `completion_mask` as keeptune's own."""
    return [
        Encoded(f"r{number}", SOURCE, tuple(row["input_ids"]), tuple(map(bool, row["completion_mask"])))
        for number, row in enumerate(rows)
    ]


def planned(rows: Sequence[dict[str, Any]], batch: int) -> Plan:
    """So many rows per step, in the order given."""
    own = encoded(rows)
    batches = [list(range(start, start + batch)) for start in range(0, len(own) - batch + 1, batch)]
    return Plan({SOURCE: own}, batches, seed=0)


def objective_of(model: PreTrainedModel) -> Objective:
    """The objective of a supervised stage on a model; it trains whatever is attached and not frozen."""
    book = getattr(model, "keeptune", None)
    stack = () if book is None else tuple(book.order)
    next_token = Loss.find("next_token")()
    return Objective(
        model=model,
        masters=Masters(model),
        losses=[next_token],
        stacks={SOURCE: stack},
        reference=None,
        micro_batch_tokens=WHOLE,
    )


def session_of(model: PreTrainedModel, plan: Plan, run: Run, rank: int, lr: float) -> Session:
    """The session of a LoRA stage with a constant rate, without commits."""
    stage: Any = validate(
        Stage,
        {
            "name": "train",
            "method": {"name": "lora", "rank": rank},
            "optimizer": {"name": "adamw", "lr": lr, "schedule": "constant", "warmup": 0.0},
        },
    )
    stage.method.attach(model, ADAPTER)
    return Session(
        stage=stage,
        run=run,
        label=stage.label,
        plan=plan,
        objective=objective_of(model),
        commits=Commits(Path(run.folder), {}, keep=1),
        counters=Counters(rate_scale=1.0, micro_batch_tokens=WHOLE, threads=torch.get_num_threads()),
        look=None,
        snapshot=lambda step: None,
        vocabulary=model.get_output_embeddings().weight.shape[0],
    )
