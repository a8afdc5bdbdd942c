"""What LoRA adds to the frozen network's own step, ours and PEFT's, and how much of the processor the step uses.

    python -m benchmarks.step_cost            # writes a record for the kind of processor
    python -m benchmarks.step_cost --quick    # two rounds; prints

The frozen network's step is its forward pass and the gradient in its input: the least that any adapter needs. Both
sides of a ratio use the same body, the same loss and the same rows; PEFT's rows are padded, as its models need them.
Before the rounds, loss and gradient of every adapter matrix have to agree with PEFT's to 1e-5 in float32.

The peak of the processor is the best matrix product of the same process, in the same rounds; useful arithmetic is
counted by `benchmarks/flops.py`, without padding and unsupervised rows.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks import flops, record, workload
from benchmarks.interleave import interleaved, middle, ratio, timed
from benchmarks.peak import ways
from benchmarks.peers.session import encoded, objective_of
from keeptune.core.machine import calm_process
from keeptune.data.encode import Encoded
from keeptune.engine.head import head_of
from keeptune.losses.next_token import next_token
from keeptune.methods import LoRA, save_adapter
from keeptune.models.load import load
from keeptune.stages.optimizers.adamw import AdamW

RANK = 16
BATCHES = 4
SQUARE = (1024, 2048, 4096)
"""Sides of the square products that look for the processor's peak."""
Rows = Sequence[Encoded]


@dataclass
class Padded:
    """The same rows for models that know no packed batch."""

    tokens: Tensor
    mask: Tensor
    targets: Tensor

    @classmethod
    def of(cls, rows: Rows) -> Padded:
        """Rows padded on the right; targets are shifted, -100 where nothing is learned."""
        width = max(len(row.tokens) for row in rows)
        made = [torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3)]
        made[2].fill_(-100)
        for place, row in enumerate(rows):
            length = len(row.tokens)
            made[0][place, :length] = torch.tensor(row.tokens)
            made[1][place, :length] = 1
            learned = torch.tensor(row.learned[1:])
            made[2][place, : length - 1][learned] = torch.tensor(row.tokens[1:])[learned]
        return cls(*made)


def own_step(model: Any, batches: Sequence[Rows], lr: float = 2e-4) -> Callable[[int], float]:
    """Gradient, clipping and update as the train stage makes them; without an adapter the gradient alone."""
    objective = objective_of(model)
    optimizer = AdamW(lr=lr).build(objective.masters.named) if objective.masters.named else None

    def step(turn: int) -> float:
        def work() -> None:
            result = objective.backward(batches[turn % len(batches)])
            if optimizer is not None:
                parameters = [master for _, master in objective.masters.named]
                torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, torch.tensor(result.norm))
                optimizer.step()

        return timed(work)

    return step


def padded_loss(model: Any, body: Any, batch: Padded) -> Tensor:
    """Mean loss over supervised positions; the head runs on them alone, by the same function as ours."""
    hidden = body(input_ids=batch.tokens, attention_mask=batch.mask, use_cache=False).last_hidden_state
    supervised = batch.targets != -100
    return next_token(hidden[supervised], batch.targets[supervised], head_of(model)) / supervised.sum()


def peft_step(model: Any, body: Any, batches: Sequence[Padded], lr: float = 2e-4) -> Callable[[int], float]:
    """The same on a model of transformers, with PEFT's adapters or without."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, foreach=False) if parameters else None

    def step(turn: int) -> float:
        def work() -> None:
            padded_loss(model, body, batches[turn % len(batches)]).backward()
            if optimizer is not None:
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()

        return timed(work)

    return step


def frozen(folder: Path, dtype: torch.dtype) -> Any:
    """The network as transformers loads it, nothing to train, its input wanting a gradient."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    model.requires_grad_(False)
    model.enable_input_require_grads()
    return model


def gradient_difference(folder: Path, rows: Rows, scratch: Path) -> dict[str, float]:
    """Largest difference of a gradient from PEFT's, relative to the largest entry of that matrix, and of the loss."""
    own = load(folder, dtype="float32", device="cpu").model
    LoRA(rank=RANK).attach(own, "lora")
    placed = [each for part in own.keeptune.adapter("lora").placed for each in part]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, delta, _ in placed:
            delta.lora_B.normal_(0, 0.02, generator=generator)
    save_adapter(own, "lora", scratch)
    theirs = PeftModel.from_pretrained(frozen(folder, torch.float32), scratch, is_trainable=True)
    loss = padded_loss(theirs, theirs.get_base_model().model, Padded.of(rows))
    loss.backward()
    result = objective_of(own).backward(rows)
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    worst = 0.0
    for place, delta, _ in placed:
        for side in ("lora_A", "lora_B"):
            peer = expected.pop(f"base_model.model.{place.path}.{side}.default.weight")
            got = getattr(delta, side).grad
            worst = max(worst, float((got - peer).abs().max() / peer.abs().max()))
    assert not expected, f"no gradient of ours for {sorted(expected)}"
    return {"gradient": worst, "loss": abs(result.loss - loss.item())}


def peak(dtype: torch.dtype) -> Callable[[int], float]:
    """Seconds of one GFLOP at the best of a few square products."""
    sides = [(torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)) for side in SQUARE]

    def step(_: int) -> float:
        with torch.no_grad():
            return min(timed(way) / (2 * len(a) ** 3 / 1e9) for a, b in sides for way in ways(a, b))

    return step


def useful(rows: Rows) -> float:
    """GFLOP of one LoRA step that nothing can leave out."""
    work = flops.Work.of([row.learned for row in rows])
    return flops.low_rank_step(flops.Shape.of(workload.SHAPE), work, RANK) / 1e9


def compare(dtype: str, folder: Path, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Our step and PEFT's over the frozen network's, and the share of the peak, for one dtype."""
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    rows = encoded(workload.draw_rows(workload.ROWS_PER_STEP * BATCHES, seed))
    batches = [rows[start : start + workload.ROWS_PER_STEP] for start in range(0, len(rows), workload.ROWS_PER_STEP)]
    padded = [Padded.of(batch) for batch in batches]
    own, own_frozen = (load(folder, dtype=dtype, device="cpu").model for _ in range(2))
    LoRA(rank=RANK).attach(own, "lora")
    own_frozen.requires_grad_(False)
    own_frozen.enable_input_require_grads()
    plain = frozen(folder, kind)
    peft = get_peft_model(frozen(folder, kind), LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    seconds = interleaved(
        {
            "own": own_step(own, batches),
            "own frozen": own_step(own_frozen, batches),
            "peft": peft_step(peft, peft.get_base_model().model, padded),
            "peft frozen": peft_step(plain, plain.model, padded),
            "peak": peak(kind),
        },
        rounds,
        seed,
    )
    work = [useful(batches[turn % BATCHES]) for turn in range(1, rounds + 1)]
    best = [taken * gflop for taken, gflop in zip(seconds["peak"], work, strict=True)]
    rate = 1 / middle(seconds["peak"]) if middle(seconds["peak"]) else 0.0
    return [
        {"what": f"LoRA step over the frozen network's forward and input gradient, {dtype}", "of": of,
         "seconds": middle(seconds[of]), "frozen_seconds": middle(seconds[f"{of} frozen"]),
         "cost": ratio(seconds[of], seconds[f"{of} frozen"])}
        for of in ("own", "peft")
    ] + [
        {"what": f"useful share of the peak, {dtype}", "of": of, "peak_gflops": round(rate, 1),
         "share": ratio(best, seconds[of])}
        for of in ("own", "peft")
    ]  # fmt: skip


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    calm_process()
    torch.set_num_threads(1)
    rounds = 2 if asked.quick else asked.rounds
    with tempfile.TemporaryDirectory() as made:
        folder = workload.write_model(Path(made) / "model", asked.seed)
        rows = encoded(workload.draw_rows(workload.ROWS_PER_STEP, asked.seed))
        differences = gradient_difference(folder, rows, Path(made) / "adapter")
        assert max(differences.values()) < 1e-5, f"our gradients are not PEFT's: {differences}"
        found = [row for dtype in record.dtypes() for row in compare(dtype, folder, rounds, asked.seed)]
    checked = {"against_peft_fp32": differences}
    record.write(
        "step_cost", found, seeds=[asked.seed], quick=asked.quick, by_units=True, rounds=rounds, checked=checked
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
