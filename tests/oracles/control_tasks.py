"""Makes `control_tasks.json`: what the probes of Hewitt & Liang's own code learn from given states.

    git clone https://github.com/john-hewitt/control-tasks CHECKOUT     # commit be70d7f, Apache-2.0
    python -m tests.oracles.control_tasks CHECKOUT/control-tasks

Their regimen, probes, loss and control tasks run as they are. States, answers and first weights are sines, so that a
test makes the very same ones; numbers have 64 bits, and batches come in the order of the texts. Texts of the edge task
are of one length, because their code lets the padding of shorter ones stand among the heads that are possible. Their
control tasks draw with numpy's global generator; the record holds what they drew.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections import namedtuple
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COMMIT = "be70d7f42324797dcf2bb5360a94d8e64100fea8"
FIXTURE = Path(__file__).with_suffix(".json")
WIDTH, CLASSES, TAGS, BATCH, TYPES, EPOCHS = 8, 5, 45, 20, 30, 40
TEXTS = {"train": 120, "dev": 40, "test": 40}
PROBES: dict[str, tuple[str, str, int]] = {
    "linear, rank 4": ("labels", "OneWordLinearLabelProbe", 4),
    "MLP-1, width 300": ("labels", "OneWordNNLabelProbe", 300),
    "MLP-2, width 12": ("labels", "OneWordNNLabelProbe", 12),
    "bilinear, rank 6": ("edges", "TwoWordBilinearLabelProbe", 6),
    "edge MLP-1, width 12": ("edges", "TwoWordNNLabelProbe", 12),
    "edge MLP-2, width 12": ("edges", "TwoWordNNLabelProbe", 12),
}
Observation = namedtuple("Observation", ["sentence", "xpos_sentence", "head_indices"])


def wave(shape: Sequence[int], phase: float) -> Tensor:
    """Numbers from -2 to 2 that anybody can make again."""
    steps = torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 0.77 + phase
    return (torch.sin(steps) + torch.sin(2.3 * steps + steps**2 / 1000)).reshape(tuple(shape))


def lengths(part: str, kind: str) -> list[int]:
    """Words of each text."""
    return [7 if kind == "edges" else 4 + (5 * text) % 6 for text in range(TEXTS[part])]


def words(part: str, kind: str) -> list[list[str]]:
    """The type of each word."""
    start = list(TEXTS).index(part)
    rows, place = [], 0
    for length in lengths(part, kind):
        rows.append([f"w{(1103515245 * (place + i + 1000 * start) + 12345 >> 16) % TYPES}" for i in range(length)])
        place += length
    return rows


def states(part: str, kind: str) -> list[Tensor]:
    """`[N, D]` of each text: half of it the word's type, half its place in the part."""
    own = {f"w{number}": wave((WIDTH,), 3.1 * number) for number in range(TYPES)}
    phase = 100.0 * list(TEXTS).index(part)
    found = wave((sum(lengths(part, kind)), WIDTH), phase).split(lengths(part, kind))
    return [
        3 * rows + 3 * torch.stack([own[name] for name in names])
        for rows, names in zip(found, words(part, kind), strict=True)
    ]


def answers(part: str, kind: str) -> list[list[int]]:
    """A class, by a linear function of the state; or the head, by a bilinear one, and -1 for the first word."""
    if kind == "labels":
        mix = wave((WIDTH, CLASSES), 7.0)
        return [(rows @ mix).argmax(1).tolist() for rows in states(part, kind)]
    form = wave((WIDTH, WIDTH), 11.0)
    scores = [rows @ form @ rows.T for rows in states(part, kind)]
    return [[-1, *own.fill_diagonal_(-1e9).argmax(1).tolist()[1:]] for own in scores]


def noise(part: str, kind: str) -> list[list[int]]:
    """Answers that the states say nothing about: learning stops early."""
    flat = (
        (1000 * wave((sum(lengths(part, kind)),), 5.0 + list(TEXTS).index(part)).abs())
        .long()
        .split(lengths(part, kind))
    )
    return [[number % (CLASSES if kind == "labels" else len(row)) for number in row.tolist()] for row in flat]


def first_weights(name: str, shape: Sequence[int]) -> Tensor:
    """What a probe's parameter begins with."""
    return 0.1 * wave(shape, 0.37 * sum(map(ord, name)) + len(shape))


def padded(rows: Sequence[Tensor], fill: float) -> Tensor:
    """Texts of different lengths as one array."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)


def batches(part: str, kind: str, given: Sequence[Sequence[int]]) -> list[tuple[Any, ...]]:
    """As their loader gives them: states, labels padded by -1, lengths, observations."""
    every, sizes, found = states(part, kind), lengths(part, kind), []
    for start in range(0, len(every), BATCH):
        chosen = slice(start, start + BATCH)
        labels = padded([torch.tensor(row) for row in given[chosen]], -1)
        found.append((padded(every[chosen], 0), labels, torch.tensor(sizes[chosen]), None))
    return found


def drawn(kind: str) -> dict[str, int]:
    """What their control task draws for every type: a class, or 0 (the word itself), 1 (the first) or 2 (the last)."""
    import task

    args = {"seed": 0, "probe": {"misc": {"corrupted_token_percent": 1.0}}}
    name = "CorruptedPartOfSpeechLabelTask" if kind == "labels" else "CorruptedEdgePositionTask"
    made = getattr(task, name)(args)
    observed = {
        part: [Observation(names, ["x"] * len(names), ["0", *["1"] * (len(names) - 1)]) for names in words(part, kind)]
        for part in TEXTS
    }
    made.prepare(*observed.values())
    found = {key: int(value) for key, value in (made.rand_type_vocab if kind == "labels" else made.label_dict).items()}
    for part, rows in observed.items():
        assert [made.labels(one).int().tolist() for one in rows] == control(part, kind, found)
    return dict(sorted(found.items()))


def control(part: str, kind: str, found: dict[str, int]) -> list[list[int]]:
    """Every word's answer by its type."""
    rows = words(part, kind)
    if kind == "labels":
        return [[found[name] for name in names] for names in rows]
    return [[(place, 0, len(names) - 1)[found[name]] for place, name in enumerate(names)] for names in rows]


def learned(name: str, given: dict[str, list[list[int]]], classes: int) -> dict[str, Any]:
    """Their probe taught by their regimen: epochs, loss on dev, and what it answers on test."""
    import loss
    import probe
    import regimen

    kind, kind_of_probe, size = PROBES[name]
    with tempfile.TemporaryDirectory() as folder:
        args = {
            "device": "cpu",
            "model": {"hidden_dim": WIDTH},
            "reporting": {"root": folder},
            "probe": {
                "maximum_rank": size, "label_space_size": classes, "dropout": 0.0, "params_path": "best",
                "probe_spec": {"probe_hidden_layers": 2 if "MLP-2" in name else 1},
            },
            "probe_training": {"epochs": EPOCHS},
        }  # fmt: skip
        net = getattr(probe, kind_of_probe)(args)
        with torch.no_grad():
            for key, parameter in net.named_parameters():
                parameter.copy_(first_weights(key, parameter.shape))
        teacher = Teacher.around(regimen.ProbeRegimen)(args)
        parts = {part: batches(part, kind, rows) for part, rows in given.items()}
        teacher.train_until_convergence(net, lambda own: own, loss.CrossEntropyLoss(args), parts["train"], parts["dev"])
        net.load_state_dict(teacher.kept)
        said = teacher.predict(net, lambda own: own, parts["test"])
    rows = [row for batch in said for row in batch]
    sizes = lengths("test", kind)
    chosen = [row[:size, : size if kind == "edges" else None].argmax(1) for row, size in zip(rows, sizes, strict=True)]
    return {
        "epochs": len(teacher.losses),
        "dev_loss": float(f"{teacher.best / TEXTS['dev']:.10g}"),
        "said": [" ".join(map(str, row.tolist())) for row in chosen],
    }


class Teacher:
    """Their regimen, which also tells what it saw."""

    @staticmethod
    def around(theirs: Any) -> Any:
        """A subclass with the losses on dev, summed over texts, and loss and weights of the epoch that it keeps."""

        class Telling(theirs):
            def set_optimizer(self, probe: Any) -> None:
                super().set_optimizer(probe)
                self.losses: list[float] = []
                self.kept: dict[str, Tensor] = {}
                step, state = self.scheduler.step, probe.state_dict
                self.scheduler.step = lambda loss: (self.losses.append(float(loss)), step(loss))
                probe.state_dict = lambda *a, **k: self._keep(state(*a, **k))

            def _keep(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
                self.kept, self.best = {key: value.clone() for key, value in state.items()}, self.losses[-1]
                return state

        return Telling


def main(checkout: str) -> None:
    """Writes the fixture."""
    sys.path.insert(0, checkout)
    torch.set_default_dtype(torch.float64)
    with quiet():
        types = {kind: drawn(kind) for kind in ("labels", "edges")}
        found = {
            f"{name}: {what}": learned(name, rows, TAGS)
            for name, (kind, _, _) in PROBES.items()
            for what, rows in (
                ("task", {part: answers(part, kind) for part in TEXTS}),
                ("control", {part: control(part, kind, types[kind]) for part in TEXTS}),
                ("noise", {part: noise(part, kind) for part in TEXTS}),
            )
        }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in found.items())
    FIXTURE.write_text(
        f'{{"commit": "{COMMIT}",\n"types": {json.dumps(types)},\n"learned": {{\n{lines}\n}}}}\n', encoding="utf-8"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without their progress bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


if __name__ == "__main__":
    main(sys.argv[1])
