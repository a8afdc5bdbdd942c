"""SpotTune and its rivals on a small ViT that has learned the digits 0 to 4, and gets ten images each of 5 to 9.

Two target tasks: the new digits as they are, and with ink and paper exchanged. Every method trains beside a new head.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from benchmarks.digits import write_vit
from benchmarks.digits_parts import WIDTH, accuracy, drawn, parts
from keeptune.core.files import make_folder
from keeptune.data.encode import Encoded
from keeptune.engine.batch import pack
from keeptune.engine.book import base_state_dict, require_book
from keeptune.engine.readout import answers
from keeptune.methods import Method, after_step, attach
from keeptune.methods._policy import Policy
from keeptune.methods.freeze import Freeze
from keeptune.methods.full import Full
from keeptune.methods.head import Head
from keeptune.methods.lora import LoRA
from keeptune.methods.spottune import SpotTune
from keeptune.models.load import Loaded, load
from keeptune.models.writing import save_model

SOURCE, TARGET = "01234", "56789"
TASKS = {"upright": False, "inverted": True}
EACH, STEPS, BATCH = 10, 100, 25
PRETRAINED_STEPS, PRETRAINED_RATE, PRETRAINED_BATCH = 250, 1e-3, 50
ARMS: dict[str, list[Method]] = {
    "head": [],
    "lora": [LoRA(rank=8)],
    "freeze": [Freeze(bottom=2)],
    "full": [Full()],
    "spottune": [SpotTune(rank=8)],
    "spottune copy": [SpotTune(branch="copy")],
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
TESTED = 305
"""Test images of the target digits."""
NAME = "one"


def pretrained(folder: Path, seed: int) -> Path:
    """A ViT that tells 0 to 4 apart, without its head."""
    place = folder / f"pretrained-{seed}"
    make_folder(place)
    if not (place / "config.json").exists():
        write_vit(folder / f"random-{seed}", width=WIDTH, seed=seed)
        loaded = load(folder / f"random-{seed}", dtype="float32", device="cpu")
        rows = list(parts(SOURCE).train)
        attach(loaded.model, [Full(), Head(labels=list(SOURCE), pooling="cls")], NAME, seed=seed)
        _train(loaded, rows, SOURCE, PRETRAINED_RATE, seed, steps=PRETRAINED_STEPS, batch=PRETRAINED_BATCH)
        save_model(loaded, place, base_state_dict(loaded.model))
    return place


def adapted(folder: Path, arm: str, task: str, rate: float, seed: int, *, look: str) -> dict[str, Any]:
    """The accuracy of one arm on the rows of `look` (dev or test), and what SpotTune decided."""
    data = parts(TARGET, inverted=TASKS[task])
    loaded = load(pretrained(folder, seed), dtype="float32", device="cpu")
    few = drawn(data.train, EACH, seed)
    attach(loaded.model, [*ARMS[arm], Head(labels=list(TARGET), pooling="cls")], NAME, seed=seed)
    _train(loaded, few, TARGET, rate, seed, steps=STEPS, batch=BATCH)
    found: dict[str, Any] = {"accuracy": accuracy(loaded, getattr(data, look))}
    policy = next((part for part in require_book(loaded.model, NAME).modules() if isinstance(part, Policy)), None)
    if policy is not None:
        found["tuned"] = (policy.decisions[1] / policy.decisions.sum(0)).tolist()
    return found


def _train(loaded: Loaded, rows: list[Encoded], labels: str, rate: float, seed: int, *, steps: int, batch: int) -> None:
    """AdamW, a tenth of the steps to warm up, then a cosine."""
    model = loaded.model
    torch.manual_seed(seed)  # of SpotTune's noise
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    warmup = steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    order = torch.Generator().manual_seed(seed)
    model.train()
    waiting: list[int] = []
    for step in range(steps):
        if len(waiting) < batch:
            waiting = torch.randperm(len(rows), generator=order).tolist()
        chosen, waiting = [rows[place] for place in waiting[:batch]], waiting[batch:]
        scores = torch.stack([answer.scores for answer in answers(model, pack(chosen))])
        gold = torch.tensor([labels.index(str(row.answer)) for row in chosen])
        torch.autograd.backward(torch.nn.functional.cross_entropy(scores, gold))
        optimizer.step()
        schedule.step()
        after_step(model, NAME, step + 1, steps)
        optimizer.zero_grad()
