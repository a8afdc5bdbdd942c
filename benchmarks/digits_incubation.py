"""Deep Incubation of a small ViT on ten digits, from random weights, against training from end to end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.digits import write_vit
from benchmarks.digits_parts import PIXELS, WIDTH, accuracy, parts
from benchmarks.incubation import BLOCKS, MODULES, equal_steps
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.files import make_folder
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.methods import load_adapter
from keeptune.models.load import Loaded, load
from keeptune.stages import Stage, StageWork
from keeptune.stages._progress import Progress

LABELS = "0123456789"
META, MODULE, JOINT, BATCH = 150, 150, 50, 50
EQUAL = equal_steps(META, MODULE, JOINT)
HEAD = {"name": "head", "pooling": "cls"}
RATES = (1e-3, 3e-3)
TRAINED, TESTED = 900, 600
"""Images of each part."""
ARMS = ("random", "assembled", "joint", "same joint steps", "same compute")


class Bench:
    """A random ViT, stages that run on it, and the accuracy of what they make.

    Args:
        folder: of everything.
        seed: of weights and order.
        look: the rows that accuracy is taken on, dev or test.
    """

    def __init__(self, folder: Path, seed: int, look: str) -> None:
        self.folder, self.seed = folder, seed
        write_vit(folder / "vit", width=WIDTH, layers=BLOCKS, seed=seed)
        self.base = Checkpoint(str(folder / "vit"), dtype="float32")
        data = parts(LABELS)
        self.data, self.held = {"task": SimpleNamespace(rows=data.train)}, getattr(data, look)

    def open(self, checkpoint: Checkpoint) -> Loaded:
        """The model with its head."""
        loaded = load(checkpoint.base, dtype="float32", device="cpu")
        for ref in checkpoint.adapters:
            load_adapter(loaded.model, ref.path, ref.name, trainable=False, force=True)
        return loaded

    def run(self, place: str, rate: float, start: Checkpoint, /, **settings: Any) -> Checkpoint:
        """The checkpoint that a stage makes in the run folder `place`; a finished one is taken as it is."""
        optimizer = {"name": "adamw", "lr": rate, "schedule": "cosine", "warmup": 0.1}
        plain = {"losses": ["label"], "optimizer": optimizer, "batch_tokens": BATCH * PIXELS, **settings}
        with Run.open(self.folder / place) as run:
            work = StageWork(
                run=run, folder=run.stage_folder(0, "stage"), index=0, seed=self.seed, data=self.data, open=self.open,
                progress=Progress(quiet=True),
            )  # fmt: skip
            made: Checkpoint = validate(Stage, plain).run(start, work)
            return made

    def incubated(self, rate: float) -> Checkpoint:
        """The assembled model."""
        steps = {"meta_steps": META, "module_steps": MODULE}
        return self.run(
            f"incubated-{rate}", rate, self.base, name="deep_incubation", id="modules", modules=MODULES, meta="scratch",
            start="random", head=HEAD, **steps,
        )  # fmt: skip

    def arm(self, name: str, rate: float, first_rate: float) -> float:
        """Accuracy of one arm; `first_rate` is that of the modules, where a joint stage follows."""
        if name == "assembled":
            made = self.incubated(rate)
        elif name == "joint":
            start = self.incubated(first_rate)
            made = self.run(f"joint-{rate}", rate, start, name="train", method="full", thaw=["modules"], steps=JOINT)
        else:
            steps = EQUAL if name == "same compute" else JOINT
            method = [HEAD] if name == "random" else [{"name": "full"}, HEAD]
            made = self.run(f"{name}-{rate}", rate, self.base, name="train", method=method, steps=steps)
        return accuracy(self.open(made), self.held)


def measured(folder: Path, arm: str, rate: float, first_rate: float, seed: int, *, look: str) -> dict[str, Any]:
    """The accuracy of one arm; what is trained in `folder` already is taken from there."""
    place = folder / f"incubation-{seed}"
    make_folder(place)
    return {"accuracy": Bench(place, seed, look).arm(arm, rate, first_rate)}
