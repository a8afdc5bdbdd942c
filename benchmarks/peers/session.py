"""A training session of the train stage on given batches, without a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.spec import validate
from keeptune.data.encode import Encoded, EncodedSet
from keeptune.data.pairs import paired
from keeptune.losses import Loss
from keeptune.models.load import load
from keeptune.stages import Stage, StageWork
from keeptune.stages._masters import Masters
from keeptune.stages._plan import Plan
from keeptune.stages._session import Session
from keeptune.stages._step import Objective
from keeptune.stages._training import Attempt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from keeptune.core.run import Run

SOURCE = "task"
WHOLE = 10_000_000


def encoded(rows: Sequence[dict[str, Any]]) -> list[Encoded]:
    """Rows of `input_ids` and `completion_mask`, or of a prompt and two answers, as keeptune's own."""
    return [_pair(number, row) if "chosen_ids" in row else _row(number, row) for number, row in enumerate(rows)]


def _row(number: int, row: dict[str, Any]) -> Encoded:
    return Encoded(f"r{number}", SOURCE, tuple(row["input_ids"]), tuple(map(bool, row["completion_mask"])))


def _pair(number: int, row: dict[str, Any]) -> Encoded:
    asked, better, worse = (row[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    return paired(
        *(
            _row(number, {"input_ids": [*asked, *said], "completion_mask": [0] * len(asked) + [1] * len(said)})
            for said in (better, worse)
        )
    )


def planned(rows: Sequence[dict[str, Any]], batch: int) -> Plan:
    """So many rows per step, in the order given."""
    own = encoded(rows)
    batches = [list(range(start, start + batch)) for start in range(0, len(own) - batch + 1, batch)]
    return Plan({SOURCE: own}, batches, seed=0)


def objective_of(model: PreTrainedModel) -> Objective:
    """The objective of a supervised stage on a model; it trains whatever is attached and not frozen."""
    book = getattr(model, "keeptune", None)
    return Objective(
        model=model,
        masters=Masters(model),
        losses=[Loss.find("next_token")()],
        stacks={SOURCE: () if book is None else tuple(book.order)},
        reference=None,
        micro_batch_tokens=WHOLE,
    )


def session_of(
    model: Path,
    plan: Plan,
    run: Run,
    *,
    dtype: str,
    device: str,
    rank: int,
    lr: float,
    losses: Sequence[dict[str, Any]],
) -> Session:
    """The session that the train stage makes for LoRA with a constant rate; the plan is given instead of drawn.

    No row comes twice in the plan that it would draw: what pays for the second time only is left out, as by the peers.
    """
    rows = tuple(plan.unique_rows())
    settings = {
        "name": "train",
        "method": {"name": "lora", "rank": rank},
        "optimizer": {"name": "adamw", "lr": lr, "schedule": "constant", "warmup": 0.0},
        "losses": list(losses),
        "steps": len(plan),
        "batch_tokens": max(1, sum(len(row.tokens) for row in rows) // (2 * len(plan))),
    }
    work = StageWork(
        run=run,
        folder=run.stage_folder(0, "train"),
        index=0,
        seed=0,
        data={SOURCE: EncodedSet(rows=rows, counts={})},
        open=lambda checkpoint: load(checkpoint.base, dtype=checkpoint.dtype, device=device),
    )
    session = Attempt(validate(Stage, settings), Checkpoint(str(model), dtype=dtype), work, 1.0).session
    session.plan = plan
    return session
