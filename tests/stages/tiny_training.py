"""A train stage small enough to run in a second: a random Llama, made-up rows, a run folder."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.data.encode import Encoded
from keeptune.models.load import load
from keeptune.stages import Stage, StageWork
from keeptune.stages._progress import Progress
from tests.models.test_load import save_model

VOCABULARY = 64


def rows(source: str, count: int, seed: int = 0) -> SimpleNamespace:
    """Made-up rows: a prompt that is context, an answer that is learned and depends on the prompt."""
    generator = random.Random(f"{source}-{seed}")
    made = []
    for number in range(count):
        prompt = [generator.randrange(4, 30) for _ in range(generator.randint(2, 6))]
        answer = [30 + prompt[0], 30 + prompt[-1], 2]
        learned = (False,) * len(prompt) + (True,) * len(answer)
        made.append(Encoded(f"r{number}", source, (*prompt, *answer), learned))
    return SimpleNamespace(rows=tuple(made))


def stage(**settings) -> Stage:
    """A short LoRA stage with dropout; settings replace it."""
    plain = {
        "name": "train",
        "method": {"name": "lora", "rank": 4, "dropout": 0.1},
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "batch_tokens": 48,
        "steps": 8,
        "saving": {"every": 2},
        **settings,
    }
    return validate(Stage, plain)


class Bench:
    """A model folder and run folders beside it."""

    def __init__(self, folder: Path, dtype: str = "float32") -> None:
        self.folder, self.dtype = folder, dtype
        self.model = folder / "model"
        if not self.model.exists():
            save_model(self.model)
        self.base = Checkpoint(str(self.model), dtype=dtype)

    def open(self, checkpoint: Checkpoint):
        from keeptune.methods import load_adapter

        loaded = load(checkpoint.base, dtype=checkpoint.dtype, device="cpu")
        for ref in checkpoint.adapters:
            load_adapter(loaded.model, ref.path, ref.name, force=True)
        return loaded

    def work(self, run: Run, index: int = 0, **changes) -> StageWork:
        data = {"task": rows("task", 40), "replay": rows("replay", 20)}
        settings = {"seed": 7, "data": data, "open": self.open, "progress": Progress(quiet=True), **changes}
        return StageWork(run=run, folder=run.stage_folder(index, "train"), index=index, **settings)

    def train(self, name: str = "run", checkpoint: Checkpoint | None = None, *, fork=False, **settings):
        """Runs a stage in a run folder; keyword `work` goes to StageWork."""
        changes = settings.pop("work", {})
        with Run.open(self.folder / name, fork=fork) as run:
            return stage(**settings).run(checkpoint or self.base, self.work(run, **changes))

    def events(self, name: str = "run") -> list[dict]:
        with Run.open(self.folder / name) as run:
            return run.events()

    def metrics(self, name: str = "run") -> list[dict]:
        with Run.open(self.folder / name) as run:
            return run.metrics()
