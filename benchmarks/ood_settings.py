"""The two shifts that `benchmarks.ood` trains and measures on: other corpora of sentence pairs, other packages' texts.

`pairs`: does the second sentence follow from the first? Trained on SICK; MNLI, RTE and CB are never trained on. Two
answers, since RTE has two: `entailment` and `not` (neutral and contradiction of the others), as many rows of one as of
the other. The encoder is all-MiniLM-L6-v2 with a linear head on its mean state; its makers trained it on sentence pairs
that included MNLI, though not to answer this question. Rates of full tuning and of the prompt were tried once, on 400
other rows of SICK's training file; the test rows had no part in it.

`packages`: the embedded task on the embedded decoder, known packages against packages that no other part has seen.
Rates are those that `benchmarks.methods` chose on dev.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.example import Example, Message
from keeptune.recipes.recipe import load_recipe

Plain = dict[str, Any]
LONGEST = 60
"""Words of a pair; longer ones are left out."""
SHIFTED = {"mnli": 200, "rte": 300, "cb": 150}
"""Rows at most, as many of each answer."""


@dataclass(frozen=True)
class Setting:
    """Rows, and how each method learns them.

    Attributes:
        base: what all methods start from.
        pool: training rows; a seed draws `drawn` of them, as many of each answer.
        drawn: rows of one run.
        known: test rows of the task.
        shifted: test rows from elsewhere, by name.
        methods: by name, the `method` and the `optimizer` of its train stage.
        stage: every other setting of it.
        from_base: whether the base itself answers the task, and so begins every path.
    """

    base: Checkpoint
    pool: Sequence[Example]
    drawn: int
    known: Sequence[Example]
    shifted: Mapping[str, Sequence[Example]]
    methods: Mapping[str, tuple[Any, Plain]]
    stage: Plain
    from_base: bool

    def train_rows(self, seed: int) -> list[Example]:
        """The rows of a seed, in an order of its own."""
        rows = balanced(self.pool, self.drawn, f"train/{seed}")
        random.Random(f"order/{seed}").shuffle(rows)
        return rows


def balanced(rows: Sequence[Example], count: int, seed: str) -> list[Example]:
    """At most `count` rows, as many of each answer as of every other; the rarest answer decides."""
    answers = sorted({row.target for row in rows})
    groups = [[row for row in rows if row.target == answer] for answer in answers]
    size = min(count // len(answers), *map(len, groups))
    return [row for group in groups for row in random.Random(seed).sample(group, size)]


def pairs(data: Path, encoder: Path) -> Setting:
    """Sentence pairs on the encoder."""
    others = {
        name: balanced([row for part in ("test", "train") for row in read_pairs(data, f"{name}_{part}")], most, name)
        for name, most in SHIFTED.items()
    }
    head = {"name": "head", "kind": "linear", "pooling": "mean"}
    return Setting(
        base=Checkpoint(str(encoder), dtype="bfloat16"),
        pool=list(read_pairs(data, "sick_train")),
        drawn=600,
        known=balanced(list(read_pairs(data, "sick_test")), 300, "sick"),
        shifted=others,
        methods={
            "full": (["full", head], {"lr": 2e-4}),
            "lora": ([{"name": "lora", "rank": 8}, head], {"lr": 2e-3}),
            "prefix": ([{"name": "prefix", "length": 8, "hidden": None, "init": "vocabulary"}, head], {"lr": 1e-2}),
            "prompt": ([{"name": "prompt", "length": 20}, head], {"lr": 2e-2}),
        },
        stage={"losses": ["label"], "epochs": 3, "batch_tokens": 512},
        from_base=False,
    )


def packages() -> Setting:
    """The embedded task on the embedded model; each method as its recipe has it, at the rate of docs/methods.md."""
    from keeptune.pocket.task import build_task

    task = build_task(train=60, dev=1, test=25)
    methods = {}
    for name, recipe, factor in (
        ("full", "sft", 3),
        ("lora", "lora", 3),
        ("prefix", "prefix", 1),
        ("prompt", "prompt", 3),
    ):
        (stage,) = load_recipe(recipe).stages
        plain = stage.to_dict()
        methods[name] = (plain["method"], {**plain["optimizer"], "lr": factor * plain["optimizer"]["lr"]})
    return Setting(
        base=Checkpoint("pocket", dtype="bfloat16"),
        pool=[replace(row, source="task") for row in task.train],
        drawn=len(task.labels) * 40,
        known=task.test,
        shifted={"unseen": task.ood},
        methods=methods,
        stage={"losses": ["next_token"], "epochs": 3, "batch_tokens": 2048},
        from_base=True,
    )


def read_pairs(data: Path, name: str) -> Iterator[Example]:
    """The rows of one file, as the two sentences in one text; MNLI rows without a label (`-`) are left out."""
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            text = row.get("sentence") or f"sentence 1: {row['sentence_A']}\nsentence 2: {row['sentence_B']}"
            label = (row.get("label") or row["entailment_judgment"]).lower()
            if label == "-" or len(text.split()) > LONGEST:
                continue
            answer = "entailment" if label == "entailment" else "not"
            turns = (Message("user", text), Message("assistant", answer))
            yield Example(f"{name}-{number}", messages=turns, source="task")
