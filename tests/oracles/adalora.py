"""Makes `adalora.json`: what the allocator of AdaLoRA's authors does with given weights and gradients.

    git clone https://github.com/QingruZhang/AdaLoRA CHECKOUT     # commit d10f5eb, MIT
    python -m tests.oracles.adalora CHECKOUT/loralib

Weights and gradients are sines, so that a test makes the very same ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

RANK, TARGET, MAPS = 4, 2, {"first": (5, 6), "second": (7, 3), "third": (4, 4)}
TOTAL, WARMUP, SETTLED, EVERY, BETA1, BETA2, RATE = 30, 3, 9, 3, 0.85, 0.9, 0.05
FIXTURE = Path(__file__).with_suffix(".json")


def wave(step: int, map_: str, side: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The gradient of a step; step 0 is the start of the weights."""
    count = torch.Size(shape).numel()
    phase = 1.7 * step + 0.9 * list(MAPS).index(map_) + 0.4 * "AEB".index(side)
    steps = torch.arange(count, dtype=torch.float64) * 0.77 + phase
    return (torch.sin(steps) + torch.sin(2.3 * steps)).reshape(shape)


def shapes(map_: str) -> dict[str, tuple[int, int]]:
    """Of A, E and B."""
    inputs, outputs = MAPS[map_]
    return {"A": (RANK, inputs), "E": (RANK, 1), "B": (outputs, RANK)}


def main(checkout: str) -> None:
    """Runs the authors' allocator and writes scores, masks and lambda after every step."""
    sys.path.insert(0, checkout)
    from loralib.adalora import RankAllocator

    model = torch.nn.ModuleDict()
    for name in MAPS:
        parameters = {f"lora_{side}": torch.nn.Parameter(wave(0, name, side, s)) for side, s in shapes(name).items()}
        model[name] = torch.nn.ParameterDict(parameters)
    allocator = RankAllocator(model, RANK, TARGET, WARMUP, SETTLED, EVERY, BETA1, BETA2, total_step=TOTAL)
    steps = []
    for step in range(1, TOTAL + 1):
        for name in MAPS:
            for side, shape in shapes(name).items():
                parameter = model[name][f"lora_{side}"]
                parameter.grad = wave(step, name, side, shape)
                parameter.data -= RATE * parameter.grad
        budget, _ = allocator.update_and_mask(model, step)
        scores = {}
        for name in MAPS:
            entry = {side: allocator.calculate_score(f"{name}.lora_{side}") for side in "AEB"}
            score = entry["E"].flatten() + entry["A"].mean(1) + entry["B"].mean(0)
            scores[name] = [float(f"{value:.12g}") for value in score.tolist()]
        values = {name: [round(v, 12) for v in model[name]["lora_E"].flatten().tolist()] for name in MAPS}
        steps.append({"budget": budget, "scores": scores, "lambda": values})
    lines = ",\n".join(json.dumps(step) for step in steps)
    FIXTURE.write_text(f'{{"commit": "d10f5ebee16c478fa2f41a44a237b38e8c9b0338", "steps": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(sys.argv[1])
