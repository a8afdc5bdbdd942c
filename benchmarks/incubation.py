"""Deep Incubation against training from end to end, from random weights, on text of known entropy.

    python -m benchmarks.incubation            # writes results/incubation.json and docs/results/deep_incubation.md
    python -m benchmarks.incubation --quick    # one seed, a tenth of the steps; prints

The text is a Markov chain over 64 words, 16 equally likely successors each: no model can do better than ln 16 = 2.773
nats, and one that knows nothing has ln 64 = 4.159. A Llama of four blocks is trained as two modules of two blocks. What
the same number of block passes (blocks x steps, forward and backward) gives to training from end to end stands beside
it, and so does the same number of joint steps from random weights. Loss is in nats per word, on rows never trained on.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from math import log
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks import record
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.files import atomic_write, make_folder
from keeptune.core.machine import calm_process
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.data.encode import Encoded
from keeptune.losses import Loss
from keeptune.methods import attach
from keeptune.methods.full import Full
from keeptune.models.load import load
from keeptune.report.words import took
from keeptune.stages import Stage, StageWork
from keeptune.stages._masters import Masters
from keeptune.stages._progress import Progress
from keeptune.stages._step import Objective

WORDS, SUCCESSORS, LENGTH = 64, 16, 96
BLOCKS, MODULES = 4, 2
SHAPE = {
    "vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip
META, MODULE, JOINT = 150, 150, 50
OPTIMIZER = {"name": "adamw", "lr": 3e-3, "schedule": "cosine", "warmup": 0.1}
BATCH_TOKENS = 2048
COMMAND = "python -m benchmarks.incubation"
PAGE = Path(__file__).parent.parent / "docs" / "results" / "deep_incubation.md"
SAYS = {
    "random": "random weights",
    "assembled": "assembled, before any joint step",
    "joint": "assembled, after {joint} joint steps",
    "same joint steps": "from end to end, {joint} steps",
    "same compute": "from end to end, {equal} steps (the same block passes)",
}


def rows(count: int, seed: int) -> tuple[Encoded, ...]:
    """Documents of one chain; the chain itself is always the same, the walks are drawn."""
    chain = random.Random("chain")
    following = [chain.sample(range(WORDS), SUCCESSORS) for _ in range(WORDS)]
    walk = random.Random(f"walk|{seed}")
    made = []
    for number in range(count):
        tokens = [walk.randrange(WORDS)]
        while len(tokens) < LENGTH:
            tokens.append(walk.choice(following[tokens[-1]]))
        made.append(Encoded(f"{seed}-{number}", "task", tuple(tokens), (False, *(True,) * (LENGTH - 1))))
    return tuple(made)


def equal_steps(meta: int, module: int, joint: int) -> int:
    """Steps of the whole model that pass as many blocks; what is frozen is passed too."""
    size = BLOCKS // MODULES
    passes = MODULES * meta + MODULES * (MODULES - 1 + size) * module + BLOCKS * joint
    return round(passes / BLOCKS)


class Bench:
    """A random model, and stages that run on it.

    Args:
        folder: of everything.
        seed: of weights and order.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        self.folder, self.seed = folder, seed
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder / "model")
        words = Tokenizer(WordLevel({f"w{number}": number for number in range(WORDS)}, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1").save_pretrained(
            folder / "model"
        )
        self.base = Checkpoint(str(folder / "model"), dtype="float32")
        self.data = {"task": SimpleNamespace(rows=rows(2000, seed))}
        self.held = rows(100, -1)

    def run(self, name: str, stage: dict[str, Any], start: Checkpoint) -> Checkpoint:
        """The checkpoint that a stage makes."""
        with Run.open(self.folder / name) as run:
            work = StageWork(
                run=run, folder=run.stage_folder(0, name), index=0, seed=self.seed, data=self.data,
                open=lambda one: load(one.base, dtype="float32", device="cpu"),
                progress=Progress(quiet=True),
            )  # fmt: skip
            made: Checkpoint = validate(Stage, stage).run(start, work)
            return made

    def train(self, name: str, steps: int, start: Checkpoint) -> Checkpoint:
        """Full training for so many steps."""
        plain = {
            "name": "train",
            "method": "full",
            "steps": steps,
            "optimizer": OPTIMIZER,
            "batch_tokens": BATCH_TOKENS,
        }
        return self.run(name, plain, start)

    def loss(self, checkpoint: Checkpoint) -> float:
        """Nats per word on the held-out walks."""
        model = load(checkpoint.base, dtype="float32", device="cpu").model
        attach(model, [Full()], "all", seed=0)
        objective = Objective(model, Masters(model), [Loss.find("next_token")()], {"task": ()}, None, 8192)
        return objective.value(self.held)


def one_seed(seed: int, meta: int, module: int, joint: int) -> dict[str, float]:
    """The loss of each arm."""
    with tempfile.TemporaryDirectory() as made:
        bench = Bench(Path(made), seed)
        incubate = {
            "name": "deep_incubation", "modules": MODULES, "meta": "scratch", "start": "random", "meta_steps": meta,
            "module_steps": module, "optimizer": OPTIMIZER, "batch_tokens": BATCH_TOKENS,
        }  # fmt: skip
        assembled = bench.run("incubation", incubate, bench.base)
        arms = {
            "random": bench.base,
            "assembled": assembled,
            "joint": bench.train("joint", joint, assembled),
            "same joint steps": bench.train("short", joint, bench.base),
            "same compute": bench.train("whole", equal_steps(meta, module, joint), bench.base),
        }
        return {name: bench.loss(one) for name, one in arms.items()}


def page(made: dict[str, Any]) -> str:
    """The record as a document."""
    from scipy import stats

    steps, count = made["steps"], len(made["seeds"])
    losses: dict[str, list[float]] = {one["what"]: one["losses"] for one in made["rows"]}
    lines = [
        "# Deep Incubation from random weights",
        "",
        f"```sh\n{COMMAND}\n```",
        "",
        f"A Llama of {BLOCKS} blocks as {MODULES} modules ({steps['meta']} steps of the meta model, {steps['module']} "
        f"of each module), on a Markov chain over {WORDS} words: no model can be better than {log(SUCCESSORS):.3f} "
        f"nats, one that knows nothing has {log(WORDS):.3f}. {count} seeds; mean loss on held-out text with the 90% "
        f"interval of Student's t over seeds. {took(made.get('hours'), made['machine']['processor'])}",
        "",
        "| model | loss, nats | each seed |",
        "|---|---|---|",
    ]
    for name, says in SAYS.items():
        values = losses[name]
        reach = stats.t.ppf(0.95, len(values) - 1) * stats.sem(values) if len(values) > 1 else float("nan")
        shown = ", ".join(f"{value:.3f}" for value in values)
        text = says.format(joint=steps["joint"], equal=steps["equal"])
        lines.append(f"| {text} | {mean(values):.3f} ± {reach:.3f} | {shown} |")
    better = sum(a < b for a, b in zip(losses["joint"], losses["same compute"], strict=True))
    lines += [
        "",
        f"Assembled and then tuned together, the modules were better than training from end to end with the same block "
        f"passes in {better} of {count} seeds. Modules can be trained at the same time on different machines, "
        "which this count of passes leaves out.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measures, writes the record and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    part = 10 if asked.quick else 1
    steps = {"meta": META // part, "module": MODULE // part, "joint": JOINT // part}
    steps["equal"] = equal_steps(**steps)
    seeds = range(1 if asked.quick else asked.seeds)
    begun = time.monotonic()
    found = [one_seed(seed, steps["meta"], steps["module"], steps["joint"]) for seed in seeds]
    hours = round((time.monotonic() - begun) / 3600, 3)
    losses = [{"what": name, "losses": [round(one[name], 4) for one in found]} for name in SAYS]
    made = record.write("incubation", losses, seeds=list(seeds), quick=asked.quick, steps=steps, hours=hours)
    text = page(made)
    print(text)
    if not asked.quick:
        make_folder(PAGE.parent)
        atomic_write(PAGE, text)
    return 0


if __name__ == "__main__":
    calm_process()
    torch.set_num_threads(1)
    raise SystemExit(main())
