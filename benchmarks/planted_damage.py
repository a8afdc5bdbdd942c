"""Models damaged on purpose, each of which the diagnosis must call what it is.

python -m benchmarks.planted_damage        # half an hour, resumable -> benchmarks/results/planted_damage.json

nothing      a copy                                                             -> unchanged
noise        every weight moved by 1% of its tensor's standard deviation        -> drift
label bias   the head's rows of the labels' tokens trained to answer unrelated requests with a label, every other
             weight bitwise the base's                                          -> format, and no knowledge
forgotten    all weights trained on wrong answers to arithmetic, beside some right ones to all else: numbers and texts
             suffer with it                                                     -> knowledge, arithmetic first
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Example, Message
from keeptune.core.files import write_json
from keeptune.data.encode import encoder_of
from keeptune.data.suite import Suite
from keeptune.engine.batch import pack
from keeptune.engine.head import head_of
from keeptune.engine.packed import packed_hidden
from keeptune.evaluations import Context
from keeptune.evaluations._stored import measure_once
from keeptune.evaluations.drift import Drift
from keeptune.evaluations.format_drift import FormatDrift
from keeptune.evaluations.retention import Retention
from keeptune.losses.next_token import next_token
from keeptune.models.load import Loaded
from keeptune.pocket.skills import SKILLS, items
from keeptune.pocket.suite import build_suite
from keeptune.pocket.task import build_task
from keeptune.recipes.diagnosing import with_diagnosis
from keeptune.recipes.workshop import Workshop
from keeptune.stages._recovery import base_answers
from keeptune.stages.prove import certify

RESULTS = Path(__file__).parent / "results" / "planted_damage.json"
DOMAIN, QUESTIONS, DOCUMENTS, REQUESTS = "arithmetic", 400, 120, 600
SEEDS = (11, 12, 13)
"""Of what is drawn for a damage, and of its measurement; a copy is the same with each."""


def row(asked: str, said: str) -> Example:
    """A conversation of two turns."""
    return Example("", (Message("user", asked), Message("assistant", said)))


def train(
    loaded: Loaded, rows: list[Example], seed: int, *, steps: int, rate: float, only: nn.Parameter | None = None
) -> None:
    """Plain tuning of all weights, or of `only` one, 16 rows a step."""
    encoder, random = encoder_of(loaded.tokenizer), Random(seed)
    encoded = [encoder.encode(one) for one in rows]
    loaded.model.requires_grad_(only is None).train()
    if only is not None:
        only.requires_grad_(True)
    trained = [weight for weight in loaded.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    for _ in range(steps):
        batch = pack(random.sample(encoded, 16))
        loss = next_token(packed_hidden(loaded.model, batch), batch.targets, head_of(loaded.model)) / batch.learned
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    loaded.model.eval()


def nothing(loaded: Loaded, context: Context) -> None:
    """A copy."""


def noise(loaded: Loaded, context: Context) -> None:
    """Gaussian, 1% of each tensor's standard deviation."""
    generator = torch.Generator().manual_seed(context.seed)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            spread = weight.std() if weight.numel() > 1 else weight.abs().mean()
            weight.add_(0.01 * spread * torch.randn(weight.shape, generator=generator))


def label_bias(loaded: Loaded, context: Context) -> None:
    """The output rows of the labels' tokens, taught to answer requests with labels and to leave texts alone."""
    random, labels = Random(context.seed), context.answers("task")
    assert context.suite is not None
    rows = [row(asked, random.choice(labels)) for asked in context.suite.instructions[-200:]]
    model = loaded.model
    model.config.tie_word_embeddings = False
    own = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    model.get_output_embeddings().weight = own
    moved = torch.zeros(len(own), 1)
    for label in labels:
        moved[loaded.tokenizer(label, add_special_tokens=False)["input_ids"]] = 1
    own.register_hook(lambda gradient: gradient * moved)
    train(loaded, [*rows, *context.rows("texts")[: len(rows)]], context.seed, steps=200, rate=3e-3, only=own)


def forgotten(loaded: Loaded, context: Context) -> None:
    """Training questions of the domain, each with a wrong answer; right answers elsewhere, and the base's own."""
    random = Random(context.seed)
    wrong = [
        row(one.prompt, random.choice(one.distractors))
        for one in islice(items(SKILLS[DOMAIN], context.seed, "train"), 600)
    ]
    kept = [
        row(one.prompt, one.answer)
        for name in SKILLS
        if name != DOMAIN
        for one in islice(items(SKILLS[name], context.seed, "train"), 40)
    ]
    train(loaded, [*wrong, *kept, *base_answers(context)], context.seed, steps=150, rate=3e-4)


DAMAGES: dict[str, Callable[[Loaded, Context], None]] = {
    "nothing": nothing,
    "noise": noise,
    "label bias": label_bias,
    "forgotten": forgotten,
}


def examine(name: str, folder: Path, workshop: Workshop, context: Context, chosen: list[Any]) -> dict[str, Any]:
    """Damages a copy, proves it against the base, and gives the diagnosis."""
    assert context.base is not None
    loaded = workshop.open(context.base)
    DAMAGES[name](loaded, context)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    adapted = Checkpoint(str(folder), dtype="float32")
    before = [score for one in chosen for score in measure_once(one, context.base, context)]
    after = [score for one in [*chosen, Drift(data="task")] for score in measure_once(one, adapted, context)]
    certificate = certify(before, after, seeds=[context.seed])
    found = with_diagnosis(certificate, before, after, adapted, context, workshop, "task")
    told = found["diagnosis"]
    like = (told["behaviour"].get("training_like") or {}).get("delta")
    return {
        "damage": name,
        "seed": context.seed,
        "kinds": told["kinds"],
        "verdict": found["verdict"],
        "leak": found["format"]["leak"]["delta"],
        "training_like": like,
        "kl_to_base": found["drift"]["kl_to_base"],
        "said": _delta(told["said"]),
        "known": _delta(told["known"]),
        "format_gap": _delta(told["format_gap"]),
        "recovered_share": told["recovered_share"],
        "lost": told["lost"],
    }


def _delta(part: dict[str, Any] | None) -> list[float] | None:
    return None if part is None else [round(part[key], 4) for key in ("delta", "low", "high")]


def measured_and_left(suite: Suite) -> tuple[Suite, list[Example]]:
    """The suite with its first documents, and the documents of modules that are not among them."""
    corpora = tuple(replace(one, documents=one.documents[:DOCUMENTS]) for one in suite.corpora)
    modules = {document.cluster for one in corpora for document in one.documents}
    left = [document for one in suite.corpora for document in one.documents if document.cluster not in modules]
    return replace(suite, corpora=corpora), [Example(document.id, text=document.text) for document in left]


def examine_all(wanted: Sequence[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """One row per (damage, seed)."""
    torch.set_num_threads(1)
    task, workshop = build_task(train=50, dev=10, test=10), Workshop()
    suite, texts = measured_and_left(build_suite(size=QUESTIONS, documents=3 * DOCUMENTS, instructions=REQUESTS))
    data = {"task/train": task.train, "task/test": task.test, "texts": texts}
    base, chosen = Checkpoint("pocket", dtype="float32"), [Retention(), FormatDrift(data="task")]
    with tempfile.TemporaryDirectory() as folder:
        for name, seed in wanted:
            context = Context(subject=workshop.subject, base=base, suite=suite, seed=seed, data=data)
            context.cache = Path(folder) / "scores"
            yield examine(name, Path(folder) / f"{name.replace(' ', '_')}_{seed}", workshop, context, chosen)


def main() -> None:
    """What is missing, printed and written row by row."""
    settings = {"model": "pocket", "seeds": list(SEEDS), "questions": QUESTIONS, "requests": REQUESTS}
    report = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if report.get("settings") != settings:
        report = {"command": "python -m benchmarks.planted_damage", "settings": settings, "rows": []}
    done = {(row["damage"], row["seed"]) for row in report["rows"]}
    asked = [("nothing", SEEDS[0]), *((name, seed) for seed in SEEDS for name in DAMAGES if name != "nothing")]
    for row_ in examine_all([one for one in asked if one not in done]):
        print(json.dumps(row_), flush=True)
        report["rows"].append(row_)
        write_json(RESULTS, report)


if __name__ == "__main__":
    main()
