"""Pretrain pocket on an encoded corpus; every run can be stopped and resumed at any commit.

`python scripts/pocket/pretrain.py --work WORK --run main` trains at a constant rate until it is stopped;
`--decay-steps N` brings the rate linearly to zero over the next N steps and ends
(warmup, stable, decay: Hu et al. 2024, arXiv:2404.06395).
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from batches import Mixture, Stream, even_rows
from commits import commit, commits, restore
from network import Network, Shape
from optimiser import Optimiser
from tokenizers import Tokenizer
from torch import Tensor

from keeptune.pocket.bytes_per_token import byte_lengths


@dataclass(frozen=True)
class Settings:
    """What one stretch of training does; rows are sequences of each stream in a batch."""

    rows: dict[str, int]
    length: int = 256
    masked: tuple[str, ...] = ()
    matrix_rate: float = 0.02
    vector_rate: float = 0.004
    weight_decay: float = 0.1
    warmup: int = 100
    decay_steps: int = 0
    stop_at: int = 0
    seed: int = 0
    shape: Shape = field(default_factory=Shape)


def rate_scale(step: int, began: int, settings: Settings) -> float:
    """The learning rate's factor: linear warmup, 1, then linear to 0 over `decay_steps` from step `began`."""
    if settings.decay_steps:
        return max(0.0, 1.0 - (step - began) / settings.decay_steps)
    return min(1.0, (step + 1) / settings.warmup)


@torch.no_grad()
def bits_per_byte(loss_of: Any, rows: Tensor, lengths: Tensor, batch: int) -> float:
    """Total loss of the predicted tokens in bits, divided by their bytes (the tokens' own bytes)."""
    total = 0.0
    for part in rows.split(batch):
        if len(part) == batch:
            total += float(loss_of(part[:, :-1], part[:, 1:])[0])
    used = rows[: len(rows) // batch * batch]
    return total / math.log(2) / float(lengths[used[:, 1:]].sum())


class Pretraining:
    """One network, its optimiser, its data and its folder of commits.

    Args:
        streams: encoded training streams by name.
        folder: where commits are written; the newest one is resumed.
        settings: what to do from here on.
        start: a commit to begin from when `folder` has none.
        compiled: whether the step is compiled (the tests run it eagerly).
    """

    def __init__(
        self,
        streams: dict[str, Stream],
        folder: Path,
        settings: Settings,
        start: Path | None = None,
        compiled: bool = True,
    ) -> None:
        self.settings, self.folder = settings, folder
        self.network = Network(settings.shape)
        self.network.initialise(torch.Generator().manual_seed(settings.seed))
        self.optimiser = Optimiser(self.network, settings.matrix_rate, settings.vector_rate, settings.weight_decay)
        self.state: dict[str, Any] = {"step": 0, "tokens": 0, "drawn": {}, "decay_began": None}
        found = commits(folder)
        begin = found[-1] if found else start
        if begin is not None:
            self.state = restore(begin, self.network, self.optimiser)
        if not settings.decay_steps or (begin is start and start is not None):
            self.state["decay_began"] = None
        if settings.decay_steps and self.state["decay_began"] is None:
            self.state["decay_began"] = self.state["step"]
        self.mixture = Mixture(streams, settings.rows, settings.length, frozenset(settings.masked))
        self.loss_of = torch.compile(self.network) if compiled else self.network

    @property
    def finished(self) -> bool:
        """Whether the decay has reached zero, or the asked step."""
        settings, step = self.settings, self.state["step"]
        if settings.stop_at and step >= settings.stop_at:
            return True
        return bool(settings.decay_steps and step >= self.state["decay_began"] + settings.decay_steps)

    def step(self) -> float:
        """One update; returns the batch's mean loss in nats per token."""
        tokens, labels = self.mixture.draw(self.state["drawn"])
        loss, count = self.loss_of(tokens, labels)
        mean = loss / count
        mean.backward()
        value = float(mean.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"loss is {value} at step {self.state['step']}; the last commit is intact")
        self.optimiser.step(rate_scale(self.state["step"], self.state["decay_began"] or 0, self.settings))
        self.state["step"] += 1
        self.state["tokens"] += tokens.numel()
        return value

    def commit(self) -> Path:
        """Write the present state."""
        return commit(self.folder, self.network, self.optimiser, self.state)


def train(run: Pretraining, work: Path, log: Path, seconds_between_commits: float, steps_between_checks: int) -> None:
    """Step until finished or told to stop, writing one JSON line every 20 steps and at every check."""
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.append(1))
    batch = sum(run.settings.rows.values())
    lengths = torch.tensor(byte_lengths(Tokenizer.from_file(str(work / "tokenizer.json"))))
    checks = {
        path.stem.removeprefix("dev_"): even_rows(Stream.load(path), run.settings.length, 3 * batch)
        for path in sorted(work.glob("dev_*.safetensors"))
    }

    def write(entry: dict[str, Any]) -> None:
        with log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"time": round(time.time()), **entry}) + "\n")

    write({"event": "start", "step": run.state["step"], "settings": asdict(run.settings)})
    committed, since, losses = time.monotonic(), time.monotonic(), []
    while not run.finished and not stop:
        losses.append(run.step())
        step = run.state["step"]
        if step % 20 == 0:
            speed = len(losses) * batch * run.settings.length / (time.monotonic() - since)
            loss = sum(losses) / len(losses)
            write(
                {"step": step, "tokens": run.state["tokens"], "loss": round(loss, 4), "tokens_per_second": round(speed)}
            )
            since, losses = time.monotonic(), []
        if step % steps_between_checks == 0:
            measured = {n: round(bits_per_byte(run.loss_of, rows, lengths, batch), 4) for n, rows in checks.items()}
            write({"event": "check", "step": step, "tokens": run.state["tokens"], "bits_per_byte": measured})
            since, losses = time.monotonic(), []
        if time.monotonic() - committed > seconds_between_commits:
            run.commit()
            committed = time.monotonic()
    run.commit()
    measured = {n: round(bits_per_byte(run.loss_of, rows, lengths, batch), 4) for n, rows in checks.items()}
    write({"event": "stop", "step": run.state["step"], "tokens": run.state["tokens"], "bits_per_byte": measured})


def rows_of(text: str) -> dict[str, int]:
    """Parse "books=10,chats=5"."""
    return {name: int(count) for name, count in (pair.split("=") for pair in text.split(","))}


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--run", required=True, help="name of the folder of commits under --work")
    parser.add_argument("--start", type=Path, help="a commit of another run to begin from")
    parser.add_argument("--rows", type=rows_of, default=rows_of("books=10,textbooks=9,stories=2,chats=5,skills=6"))
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--masked", default="", help="streams in which only the assistant's tokens are learned")
    parser.add_argument("--matrix-rate", type=float, default=0.02)
    parser.add_argument("--vector-rate", type=float, default=0.004)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--decay-steps", type=int, default=0)
    parser.add_argument("--stop-at", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch._dynamo.config.recompile_limit = 32
    settings = Settings(
        rows=arguments.rows,
        length=arguments.length,
        masked=tuple(arguments.masked.split(",")) if arguments.masked else (),
        matrix_rate=arguments.matrix_rate,
        vector_rate=arguments.vector_rate,
        weight_decay=arguments.weight_decay,
        decay_steps=arguments.decay_steps,
        stop_at=arguments.stop_at,
    )
    streams = {name: Stream.load(arguments.work / f"train_{name}.safetensors") for name in settings.rows}
    run = Pretraining(streams, arguments.work / arguments.run, settings, arguments.start)
    train(run, arguments.work, arguments.work / "log.jsonl", seconds_between_commits=180, steps_between_checks=200)


if __name__ == "__main__":
    main()
