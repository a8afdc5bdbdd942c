"""The train stage's own loop, one step at a time, on the rows that the peers get.

The parts are the stage's: `Objective` makes the gradient, `StepTrainer` clips and updates, as under `keeptune run`.
Only the plan is given instead of drawn, so that every contestant sees the same batch in the same round.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers.pipe import Turns
from keeptune.core.machine import calm_process


def main(settings: dict[str, Any], turns: Turns) -> None:
    """Builds the session and lets it run; it ends when the parent stops asking.

    Args:
        settings: `model` (a folder), `rows` (a file), `rank`, `batch`, `lr`, `dtype` of the frozen weights, `device`,
            `output` (a folder for the run), `losses` of the stage, `turns` (`steps` or `spans`).
        turns: the pipe.
    """
    from transformers import TrainerCallback

    from benchmarks.peers.same_start import same_start
    from benchmarks.peers.session import WHOLE, planned, session_of
    from benchmarks.peers.spanwise import watcher
    from keeptune.core.run import Run
    from keeptune.stages._trainer import StepTrainer

    class Losses(TrainerCallback):  # type: ignore[misc]
        """The loss of each step, which the trainer itself knows; asked before the watcher answers."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watching.losses.append(trainer.result.loss)

    def forms() -> dict[str, Any]:
        """Which way the passes went, and how much at a time: memory may have cut a batch."""
        objective = session.objective
        cut = None if objective.micro_batch_tokens == WHOLE else objective.micro_batch_tokens
        return {"settings": {"path": objective.model.body_path, "micro_batch_tokens": cut}}

    rows = json.loads(Path(settings["rows"]).read_text(encoding="utf-8"))
    plan = planned(rows, settings["batch"])
    with Run.open(Path(settings["output"])) as run:
        named = {name: settings[name] for name in ("dtype", "device", "rank", "lr", "losses")}
        session = session_of(settings["model"], plan, run, **named)
        same_start(session.objective.masters.named)
        watching = watcher(settings, turns, forms)
        trainer = StepTrainer(session, run.folder, [Losses(), watching])
        turns.answer(versions={name: version(name) for name in ("keeptune", "transformers", "torch")})
        trainer.train()


if __name__ == "__main__":
    calm_process()
    pipe = Turns()
    main(json.loads(sys.argv[1]), pipe)
    pipe.wait()
