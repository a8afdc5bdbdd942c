"""Many users' adapters in one batch: a written token of each row, against PEFT's `adapter_names` and no adapter.

    python -m benchmarks.mixed_adapters            # writes results/mixed_adapters.<units>.json
    python -m benchmarks.mixed_adapters --quick    # two rounds of one case; prints

32 rows, each drawn one of N adapters of rank 8 on all linear maps; a model of hidden 512, 4 layers; a cache of 40
tokens that the prompt left. All sides run the same loop of transformers' forward passes on the same tokens, one thread;
a turn is eight steps, the prompt is read before the clock starts. Both sides have the same numbers: PEFT reads the
folders that keeptune writes. Before the rounds their logits have to agree, to 1e-4 in float32 and to a fiftieth of
their norm in bfloat16, where each rounds in its own places. With 256 adapters PEFT's set-up alone takes longer than
everything else here, so there we stand beside no adapter only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks import record, workload
from benchmarks.interleave import interleaved, middle, ratio
from keeptune.core.machine import calm_process
from keeptune.engine.rows import serve, serving_of
from keeptune.methods import LoRA, save_adapter
from keeptune.models.load import load

ROWS, PROMPT, STEPS, RANK = 32, 40, 8, 8
CASES = ((8, True), (64, True), (256, False))  # adapters, and whether PEFT takes part


class Writer:
    """One side: a model, and what serves its rows."""

    def __init__(self, model: Any, served: Callable[[], AbstractContextManager[object]] = nullcontext, **extra: Any):
        self.model, self.served, self.extra = model, served, extra

    def logits(self, tokens: Tensor) -> tuple[Tensor, float]:
        """(steps, rows, V) of the steps behind a prompt, and the processor seconds that a step took.

        Args:
            tokens: (rows, T), the prompt and then one token for each step.
        """
        cache = DynamicCache(config=self.model.config)
        with torch.inference_mode(), self.served():
            self._pass(tokens[:, :PROMPT], cache)
            start = time.process_time()
            found = [self._pass(token, cache) for token in tokens[:, PROMPT:].split(1, dim=1)]
            return torch.stack(found), (time.process_time() - start) / len(found)

    def _pass(self, tokens: Tensor, cache: DynamicCache) -> Tensor:
        output = self.model(
            input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1, **self.extra
        ).logits
        logits: Tensor = output[:, -1]
        return logits


def own_side(folder: Path, dtype: str, names: list[str], who: list[str], kept: Path) -> Writer:
    """Ours, with every adapter attached and moved from its start, and saved for the other side."""
    model = load(folder, dtype=dtype, device="cpu").model
    for number, name in enumerate(names):
        LoRA(rank=RANK).attach(model, name, seed=number)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.keeptune.adapter(name).parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        save_adapter(model, name, kept / name)
    serving = serving_of(who)
    return Writer(model, lambda: serve(model, serving))


def peft_side(folder: Path, dtype: str, names: list[str], who: list[str], kept: Path) -> Writer:
    """PEFT's, from the same files."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model = PeftModel.from_pretrained(plain, str(kept / names[0]), adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(str(kept / name), adapter_name=name)
    return Writer(model.eval(), adapter_names=who)


def agree(own: Tensor, peer: Tensor, dtype: str) -> float:
    """The largest difference of logits; of those in bfloat16, that of all over their norm.

    Raises:
        AssertionError: it is more than rounding.
    """
    a, b = own.double(), peer.double()
    if dtype == "float32":
        far, limit = float((a - b).abs().max()), 1e-4
    else:
        far, limit = float((a - b).norm() / b.norm()), 2e-2
    assert far <= limit, f"the logits are {far} apart"
    return far


def compare(folder: Path, dtype: str, count: int, rounds: int, seed: int, *, peft: bool) -> dict[str, Any]:
    """The row of the record for one number of adapters."""
    draw = torch.Generator().manual_seed(seed)
    names = [f"user-{number}" for number in range(count)]
    who = [names[number] for number in torch.randint(count, (ROWS,), generator=draw).tolist()]
    tokens = torch.randint(3, workload.SHAPE["vocab_size"], (ROWS, PROMPT + STEPS), generator=draw)
    with tempfile.TemporaryDirectory() as made:
        own = own_side(folder, dtype, names, who, Path(made))
        sides = {"own": own, "none": Writer(load(folder, dtype=dtype, device="cpu").model)}
        if peft:
            sides["peer"] = peft_side(folder, dtype, names, who, Path(made))
    checked = {}
    if peft:
        far = agree(own.logits(tokens)[0], sides["peer"].logits(tokens)[0], dtype)
        checked = {"checked": {"difference_of_logits": far}}
    turns = {name: lambda _, side=side: side.logits(tokens)[1] for name, side in sides.items()}
    seconds = interleaved(turns, rounds, seed)
    return {
        "what": f"{ROWS} rows, {count} adapters, {len(set(who))} of them in the batch, {dtype}",
        "peer": "PEFT's adapter_names" if peft else None,
        "own_seconds": middle(seconds["own"]),
        "none_seconds": middle(seconds["none"]),
        "peer_seconds": middle(seconds["peer"]) if peft else None,
        "speed": ratio(seconds["peer"], seconds["own"]) if peft else None,
        "share": ratio(seconds["none"], seconds["own"]),
        **checked,
    }


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 2 if asked.quick else asked.rounds
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        folder = workload.write_model(Path(made) / "model", asked.seed)
        for dtype in record.dtypes():
            for count, peft in CASES[:1] if asked.quick else CASES:
                rows.append(compare(folder, dtype, count, rounds, asked.seed, peft=peft))
    record.write("mixed_adapters", rows, seeds=[asked.seed], quick=asked.quick, by_units=True, rounds=rounds)
    return 0


if __name__ == "__main__":
    calm_process()
    raise SystemExit(main())
