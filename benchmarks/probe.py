"""Probes and top-layer studies on a cached trunk, against computing the trunk in every epoch of every setting.

    python -m benchmarks.probe            # writes results/probe.json
    python -m benchmarks.probe --quick    # one round, fewer epochs; prints

Probes: R linear probes (one per learning rate) on the mean of the last layer's states, E epochs each. A peer computes
the frozen network in every epoch: once by our packed pass, which is the forward cost that the goal speaks of, and once
by transformers on padded batches. Ours computes it once, keeps it in the store, and every setting reads it from there.

Top-layer study: LoRA on the top quarter of the layers; an epoch that goes on from the trunk against one that computes
the whole network, both without a graph below the lowest trained layer. Losses have to agree to 1e-4, gradients to 1e-5.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from benchmarks import record, workload
from benchmarks.interleave import interleaved, middle, ratio, timed
from benchmarks.peers.session import encoded
from benchmarks.step_cost import Padded
from keeptune.core.machine import calm_process
from keeptune.data.encode import Encoded
from keeptune.engine.batch import pack
from keeptune.engine.head import head_of
from keeptune.engine.packed import packed_hidden
from keeptune.engine.trunk import from_trunk, trunk_states
from keeptune.losses.next_token import next_token
from keeptune.methods import LoRA
from keeptune.models.load import load
from keeptune.models.tensor_store import TensorStore

LAYERS = 8
CLASSES = 10
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
ROWS = 64
Rows = Sequence[Encoded]
Features = Callable[[], Callable[[int], list[Tensor]]]


def probe_study(features: Features, labels: Tensor, epochs: int) -> list[float]:
    """Trains a probe per rate; `features()` begins a setting, and gives the states of every row in each of its epochs.

    Returns:
        The last loss of each rate.
    """
    losses = []
    for rate in RATES:
        states_of = features()
        weight = torch.zeros(CLASSES, workload.SHAPE["hidden_size"], requires_grad=True)
        optimizer = torch.optim.Adam([weight], lr=rate)
        for epoch in range(epochs):
            means = torch.stack([states.float().mean(dim=0) for states in states_of(epoch)])
            for part in torch.split(torch.arange(len(means)), workload.ROWS_PER_STEP):
                loss = functional.cross_entropy(means[part] @ weight.T, labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        losses.append(loss.item())
    return losses


def packed_pass(model: Any, rows: Rows) -> list[Tensor]:
    """Final states by our packed pass, the whole set as one batch of batches of eight rows."""
    found: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(rows), workload.ROWS_PER_STEP):
            batch = pack(rows[start : start + workload.ROWS_PER_STEP])
            hidden = packed_hidden(model, batch)
            found += [hidden[first:last] for first, last in pairwise(batch.offsets)]
    return found


def padded_pass(model: Any, rows: Rows) -> list[Tensor]:
    """Final states by transformers, padded batches of eight rows."""
    found: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(rows), workload.ROWS_PER_STEP):
            part = rows[start : start + workload.ROWS_PER_STEP]
            padded = Padded.of(part)
            hidden = model.model(input_ids=padded.tokens, attention_mask=padded.mask, use_cache=False).last_hidden_state
            found += [states[: len(row.tokens)] for states, row in zip(hidden, part, strict=True)]
    return found


def cached_pass(model: Any, rows: Rows, store: TensorStore) -> list[Tensor]:
    """Final states from the store: the trunk is everything below the final norm."""
    norm = model.model.norm
    with torch.no_grad():
        return [norm(states) for states in trunk_states(model, rows, len(model.model.layers), store=store)]


def kept(states: list[Tensor]) -> Callable[[int], list[Tensor]]:
    """The same states in every epoch: a setting reads the store once."""
    return lambda _: states


def probes(folder: Path, rounds: int, seed: int, epochs: int) -> list[dict[str, Any]]:
    """E epochs times R settings, whole, for each way."""
    own = load(folder, dtype="float32", device="cpu").model
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = encoded(workload.draw_rows(ROWS, seed))
    labels = torch.randint(CLASSES, (ROWS,), generator=torch.Generator().manual_seed(seed))
    ended: dict[str, list[float]] = {}

    def way(name: str, features: Callable[[TensorStore], Features]) -> Callable[[int], float]:
        def study(_: int) -> float:
            with tempfile.TemporaryDirectory() as empty:
                given = features(TensorStore(Path(empty)))

                def work() -> None:
                    ended[name] = probe_study(given, labels, epochs)

                return timed(work)

        return study

    seconds = interleaved(
        {
            "own": way("own", lambda store: lambda: kept(cached_pass(own, rows, store))),
            "packed": way("packed", lambda _: lambda: lambda _: packed_pass(own, rows)),
            "padded": way("padded", lambda _: lambda: lambda _: padded_pass(plain, rows)),
        },
        rounds,
        seed,
        warm=0,
    )
    for name, losses in ended.items():
        worst = max(abs(one - other) for one, other in zip(losses, ended["own"], strict=True))
        assert worst < 1e-4, f"probes on {name} states end elsewhere: {losses} against {ended['own']}"
    passes = epochs * len(RATES)
    says = {"packed": "our packed pass in every epoch", "padded": "transformers' padded pass in every epoch"}
    return [
        {
            "what": f"linear probes, {epochs} epochs x {len(RATES)} settings",
            "peer": says[name],
            "own_seconds": middle(seconds["own"]),
            "peer_seconds": middle(seconds[name]),
            "speed": ratio(seconds[name], seconds["own"]),
            "passes": passes,
            "share_of_passes": round(ratio(seconds[name], seconds["own"])["median"] / passes, 3),
            "checked": {"last_losses": [round(loss, 5) for loss in ended["own"]]},
        }
        for name in ("packed", "padded")
    ]


def top_layers(folder: Path, rounds: int, seed: int) -> list[dict[str, Any]]:
    """One epoch of LoRA on the top quarter, from the trunk and on the whole network."""
    cut = LAYERS - LAYERS // 4
    model = load(folder, dtype="float32", device="cpu").model
    anatomy = model.loaded.anatomy
    targets = [path for layer in anatomy.layers[cut:] for path in layer.linear.values()]
    LoRA(rank=16, targets=targets).attach(model, "top")
    rows = encoded(workload.draw_rows(ROWS, seed))
    parameters = list(model.keeptune.parameters())
    groups = [rows[start : start + workload.ROWS_PER_STEP] for start in range(0, len(rows), workload.ROWS_PER_STEP)]
    kept = {row.id: states for row, states in zip(rows, trunk_states(model, rows, cut), strict=True)}

    def gradients(group: Rows, *, from_cut: bool) -> float:
        batch = pack(group)
        hidden = (
            from_trunk(model, batch, torch.cat([kept[row.id] for row in group]), cut)
            if from_cut
            else packed_hidden(model, batch)
        )
        loss = next_token(hidden, batch.targets, head_of(model)) / batch.learned
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        return loss.item()

    losses, found = [], []
    for from_cut in (False, True):
        losses.append(gradients(groups[0], from_cut=from_cut))
        found.append([parameter.grad for parameter in parameters if parameter.grad is not None])
    apart = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in zip(*found, strict=True))
    assert abs(losses[0] - losses[1]) < 1e-4, f"losses differ: {losses}"
    assert apart < 1e-5, f"gradients differ by {apart}"

    def epoch(*, from_cut: bool) -> Callable[[int], float]:
        return lambda _: timed(lambda: [gradients(group, from_cut=from_cut) for group in groups])

    seconds = interleaved({"own": epoch(from_cut=True), "whole": epoch(from_cut=False)}, rounds, seed)
    return [
        {
            "what": f"LoRA on the top {LAYERS - cut} of {LAYERS} layers, a later epoch",
            "peer": "the whole network, no graph below the lowest trained layer",
            "own_seconds": middle(seconds["own"]),
            "peer_seconds": middle(seconds["whole"]),
            "speed": ratio(seconds["whole"], seconds["own"]),
            "checked": {"losses": [round(loss, 5) for loss in losses], "gradient": apart},
        }
    ]


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    calm_process()
    torch.set_num_threads(1)
    rounds, epochs = (1, 2) if asked.quick else (asked.rounds, asked.epochs)
    with tempfile.TemporaryDirectory() as made:
        small = workload.write_model(Path(made) / "small", asked.seed)
        deep = workload.write_model(Path(made) / "deep", asked.seed, num_hidden_layers=LAYERS)
        rows = probes(small, rounds, asked.seed, epochs) + top_layers(deep, rounds, asked.seed)
    record.write("probe", rows, seeds=[asked.seed], quick=asked.quick, rounds=rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
