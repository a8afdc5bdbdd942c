"""What makes instruction data teach? `keeptune study instructions` on rows that pocket was not trained on.

    python -m benchmarks.instructions DATA FOLDER            # goes on where it stopped; writes its record and its page
    python -m benchmarks.instructions DATA FOLDER --quick    # two seeds, two steps, few rows; prints

DATA holds `instructions/`, `nlu/`, `math/` and `summarization/`. Three studies, each with its own joint interval.

`rows`: single turns are Alpaca's, their exams Alpaca's test rows and LIMA's rows; `narrow` is what asks to generate or
to create something; dialogues are DialogSum's, whose second person answers. Nothing of it was in pocket's training, nor
were the task sets of the plan. Nothing like a kind that is held out is trained: inference (SICK) and sentiment (SST-2)
are held out, so RTE is not trained.

`quantity`: 500 rows of Alpaca against 1,000, 2,000 and 4,000, at equal tokens: the steps are eight passes over 500
rows, or one over 4,000.

`quality`: rows of Dolly that AlpaGasus's filter chose against as many that it passed over. pocket was trained on 96% of
both; it is asked about the chosen rows that it was not trained on, and about LIMA's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import record
from keeptune.core.files import atomic_write, make_folder
from keeptune.core.machine import calm_process
from keeptune.studies._session import run_study
from scripts.pocket.corpus import dolly, held_out

Row = dict[str, Any]
LETTERS = {"alpaca": 400, "dolly": 600, "lima": 1000}
"""Longer rows are left out: request, input and answer together."""
NARROW = ("generate", "create")
SEEDS, ITEMS, WRITTEN = 4, 100, 24
PAGE = Path(__file__).parent.parent / "docs" / "results" / "instructions.md"
RECIPE = """\
name: instructions-{name}
seed: 11
model: {{name: pocket, dtype: bfloat16}}
data:
{sources}
too_long: drop
split: {{dev: 0, test: 0.1}}
stages:
  - name: train
    method: {{name: lora, rank: 16}}
    data: task
    losses: [next_token]
    optimizer: {{name: adamw, lr: 2.0e-3, schedule: cosine, warmup: 0.03}}
    saving: {{every: 1000}}
    steps: {steps}
    batch_tokens: 1024
proof: {{target: {{data: task, metric: bits_per_byte}}}}
"""


@dataclass(frozen=True)
class Part:
    """One of the studies.

    Attributes:
        title: on the page.
        sources: of its recipe, each with its file.
        choices: of the study.
        steps: of every arm.
    """

    title: str
    sources: dict[str, str]
    choices: tuple[str, ...] = ("sizes=[]",)
    steps: int = 60


PARTS = {
    "rows": Part(
        "Wordings, tasks, kinds held out, dialogues, diversity",
        {"task": "alpaca", "narrow": "narrow", "dialogues": "dialogues", "outside": "lima"},
        ("plan=plan.yaml", "sizes=[]"),
    ),
    "quantity": Part("Quantity", {"task": "alpaca", "outside": "lima"}, ("sizes=[1000, 2000, 4000]",), steps=240),
    "quality": Part("Quality", {"task": "chosen", "rejected": "passed_over", "outside": "lima"}),
}
TREC = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "thing",
    "HUM": "person",
    "LOC": "place",
    "NUM": "number",
}
PLAN = {
    "tasks": {
        "topics": ("classification", "nlu/ag_news_train", {"text": "sentence"}, 1000, {}),
        "questions": ("classification", "nlu/trec_train", {"label": "label_coarse"}, 2000, TREC),
        "yes_no": ("pair", "nlu/boolq_train", {"text": "sentence"}, 600, {}),
        "senses": ("pair", "nlu/wic_train", {"text": "sentence"}, 600, {}),
        "problems": ("mathematics", "math/gsm8k_test", {"problem": "question", "solution": "answer"}, 600, {}),
        "summaries": ("summary", "summarization/dialogsum_dev", {"document": "dialogue"}, 400, {}),
        "opinions": ("sentiment", "nlu/sst2_train", {"text": "sentence"}, 1000, {}),
        "sick": (
            "inference", "nlu/sick_train",
            {"premise": "sentence_A", "hypothesis": "sentence_B", "label": "entailment_judgment"}, 600,
            {name.upper(): name for name in ("entailment", "neutral", "contradiction")},
        ),
    },
    "hold_out": ["inference", "sentiment"],
}  # fmt: skip


def plan(data: Path) -> Row:
    """The plan of `data build`."""
    keys = ("kind", "path", "columns", "most", "labels")
    tasks = {name: dict(zip(keys, one, strict=True)) for name, one in PLAN["tasks"].items()}
    for task in tasks.values():
        task["path"] = str((data / f"{task['path']}.jsonl.gz").resolve())
    return {**PLAN, "tasks": tasks}


def read(data: Path, name: str) -> Iterator[Row]:
    """The rows of a file."""
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def single_turns(data: Path, name: str, letters: int) -> list[Row]:
    """Rows of one answer that are not too long."""
    kept = ("instruction", "input", "output")
    return [
        {key: row[key] or "" for key in kept}
        | ({"chosen": row["source_file"].startswith("alpagasus")} if "source_file" in row else {})
        for row in read(data, name)
        if not row.get("history") and row["output"].strip() and sum(len(row[key] or "") for key in kept) <= letters
    ]


def dialogues(data: Path) -> Iterator[Row]:
    """DialogSum's test dialogues of two persons who take turns; the second one answers."""
    for row in read(data, "summarization/dialogsum_test"):
        said = re.findall(r"#Person(\d)#: (.*)", row["dialogue"])
        said = said[: len(said) // 2 * 2]
        if said and [speaker for speaker, _ in said] == ["1", "2"] * (len(said) // 2):
            roles = ("user", "assistant") * (len(said) // 2)
            yield {"messages": [{"role": role, "content": text} for role, (_, text) in zip(roles, said, strict=True)]}


def files(data: Path) -> dict[str, Sequence[Row]]:
    """Every data file of the recipes."""
    alpaca = single_turns(data, "instructions/alpaca_9k_random", LETTERS["alpaca"])
    rated = single_turns(data, "instructions/dolly_4k", LETTERS["dolly"])
    for row in rated:
        row["split"] = "test" if held_out(dolly(row)[0][0]) else "train"
    return {
        "alpaca": alpaca,
        "narrow": [row for row in alpaca if row["instruction"].split()[0].lower() in NARROW],
        "lima": single_turns(data, "instructions/lima", LETTERS["lima"]),
        "dialogues": list(dialogues(data)),
        "chosen": [row for row in rated if row["chosen"]],
        "passed_over": [row for row in rated if not row["chosen"] and row["split"] == "train"],
    }


def prepare(data: Path, folder: Path, quick: bool) -> None:
    """Data files, the plan and the recipes, in FOLDER."""
    make_folder(folder)
    for name, rows in files(data).items():
        atomic_write(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    atomic_write(folder / "plan.yaml", json.dumps(plan(data), indent=1))
    for name, part in PARTS.items():
        steps = 2 if quick else part.steps
        kinds = {source: "messages" if source == "dialogues" else "alpaca" for source in part.sources}
        lines = [f"  {source}: {{format: {kinds[source]}, path: {at}.jsonl}}" for source, at in part.sources.items()]
        atomic_write(folder / f"{name}.yaml", RECIPE.format(name=name, sources="\n".join(lines), steps=steps))


def study(folder: Path, name: str, quick: bool) -> Row:
    """One of the studies."""
    seeds, items, written = (2, 30, 4) if quick else (SEEDS, ITEMS, WRITTEN)
    choices = [f"seeds={seeds}", f"items={items}", f"max_new_tokens={written}", *PARTS[name].choices]
    return run_study("instructions", str(folder / f"{name}.yaml"), folder / name, choices=choices)


def page(found: dict[str, Row]) -> str:
    """The results as a document."""
    about = (__doc__ or "").split("\n\n", 2)[2].strip()
    parts = [
        "# What makes instruction data teach",
        "```sh\npython -m benchmarks.instructions DATA FOLDER\n```",
        about,
        f"Rows have at most {LETTERS['alpaca']}, {LETTERS['dolly']} and {LETTERS['lima']:,} letters (Alpaca, Dolly, "
        "LIMA). Every arm of a study draws the\nsame number of tokens. Arms, sizes and scores were fixed before any "
        "score was seen, seeds as many as the clock allowed.\nHow to read the tables: [studies](../studies.md).",
    ]
    for name, result in found.items():
        parts += [f"## {PARTS[name].title}", result["text"].split("\n\nNot asked:")[0].split("\n\npage  ")[0]]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Runs the studies, writes the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    record.without_paths(DATA=given.data, FOLDER=given.folder)
    calm_process()
    prepare(given.data, given.folder, given.quick)
    found = {name: study(given.folder, name, given.quick) for name in PARTS}
    text = page(found)
    print(text)
    rows = [{"study": name, **one} for name, result in found.items() for one in result["comparisons"]]
    refused = {name: result["refused"] for name, result in found.items()}
    arms = {name: result["arms"] for name, result in found.items()}
    hours = {name: result["hours"] for name, result in found.items()}
    seeds = list(range(11, 11 + (2 if given.quick else SEEDS)))
    record.write("instructions", rows, seeds=seeds, quick=given.quick, arms=arms, refused=refused, hours=hours)
    if not given.quick:
        atomic_write(PAGE, text)


if __name__ == "__main__":
    main()
