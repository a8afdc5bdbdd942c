"""`keeptune check`, and the encoding before a run, beside the preprocessing of a trainer: rows a second.

    python -m benchmarks.check            # 1,000 and 20,000 conversations of one answer
    python -m benchmarks.check --quick    # 1,000; prints, writes nothing

All have the same file, tokenizer and rows. The peer is what trainers do before the first step, with `datasets`: the
file is loaded, and `map` applies the chat template to the prompt and to the whole row and makes the mask; row by row as
TRL does, and in batches. It neither validates nor compares. The same work of ours is that of a run: the file is read,
each row is validated and encoded. `check` does more: it reads the file twice so that none of it has to be held, digests
it, compares each row with all others (exact and near duplicates), and counts what would be learned.
All sides must find the same tokens and the same learned tokens, in sum. Every round begins with empty caches.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.interleave import interleaved, middle, ratio, timed
from keeptune.pocket.words import NAMES, OBJECTS, PLACES, WORDS

RECIPE = """\
name: rows
model: {name: pocket}
data:
  task: {format: messages, path: rows.jsonl}
stages:
  - {name: train, method: full, data: task, losses: [next_token], steps: 1}
proof: null
"""
CONTEXT = 1024
"""Of the model, in tokens; no row is longer."""
VOCABULARY = (*WORDS, *OBJECTS, *NAMES, *PLACES)
Row = dict[str, Any]
Spans = tuple[tuple[int, int], tuple[int, int]]


def write_rows(folder: Path, count: int, seed: int, spans: Spans = ((20, 60), (40, 160))) -> Path:
    """Conversations of so many words asked and answered, from and to, with the recipe that reads them."""
    draw = random.Random(seed)
    path = folder / "rows.jsonl"
    with path.open("w", encoding="utf-8") as lines:
        for _ in range(count):
            said = (" ".join(draw.choices(VOCABULARY, k=draw.randint(*span))) for span in spans)
            turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]
            lines.write(json.dumps({"messages": turns}) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return path


def own(folder: Path) -> dict[str, int]:
    """What `check` counts."""
    from keeptune.recipes.check import check_recipe

    result, fault = check_recipe(str(folder / "recipe.yaml"), [], quiet=True)
    assert fault is None, fault
    counts = result["sources"][0]["counts"]
    return {key: counts[f"encoded {key}"] for key in ("kept", "tokens", "learned")}


def encoded(folder: Path, tokenizer: Any) -> dict[str, int]:
    """What a run reads and encodes, without comparing anything."""
    from keeptune.data.encode import encode_all
    from keeptune.data.read import read_examples
    from keeptune.recipes.recipe import load_recipe

    recipe = load_recipe(str(folder / "recipe.yaml"), [])
    reading = read_examples(recipe.data["task"], "task", folder=folder)
    counts = encode_all(reading.examples, tokenizer, too_long=recipe.too_long, context=CONTEXT).counts
    return {key: counts[key] for key in ("kept", "tokens", "learned")}


def theirs(path: Path, tokenizer: Any, *, batched: bool) -> dict[str, int]:
    """The same by `datasets`."""
    from datasets import load_dataset

    def whole(turns: list[Row], **more: Any) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False, **more)
        return ids

    def one(row: Row) -> Row:
        prompt, ids = whole(row["messages"][:-1], add_generation_prompt=True), whole(row["messages"])
        return {"input_ids": ids, "completion_mask": [0] * len(prompt) + [1] * (len(ids) - len(prompt))}

    def many(rows: Row) -> Row:
        texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in rows["messages"]]
        asked = [
            tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
            for turns in rows["messages"]
        ]
        ids, prompts = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (texts, asked))
        masks = [[0] * len(a) + [1] * (len(b) - len(a)) for a, b in zip(prompts, ids, strict=True)]
        return {"input_ids": ids, "completion_mask": masks}

    with tempfile.TemporaryDirectory() as cache:
        rows = load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
        encode = many if batched else one
        made = rows.map(encode, batched=batched, remove_columns=rows.column_names, load_from_cache_file=False)
        return {
            "kept": len(made),
            "tokens": sum(map(len, made["input_ids"])),
            "learned": sum(map(sum, made["completion_mask"])),
        }


def compare(folder: Path, count: int, rounds: int, seed: int) -> list[Row]:
    """The rows of the record: equal counts first, then the times."""
    from keeptune.models.load import load

    path, tokenizer = write_rows(folder, count, seed), load("pocket").tokenizer
    work: dict[str, Callable[[], dict[str, int]]] = {
        "check": lambda: own(folder),
        "encoded": lambda: encoded(folder, tokenizer),
        "rows": lambda: theirs(path, tokenizer, batched=False),
        "batches": lambda: theirs(path, tokenizer, batched=True),
    }
    found = {name: run() for name, run in work.items()}
    assert all(counts == found["check"] for counts in found.values()), f"the sides disagree: {found}"
    seconds = interleaved({name: lambda _, run=run: timed(run) for name, run in work.items()}, rounds, seed, warm=0)
    ours = {"encoded": "reading and encoding", "check": "check: also two readings, duplicates, lengths"}
    peers = {"rows": "datasets.map, row by row as TRL does", "batches": "datasets.map, in batches"}
    return [
        {
            "what": f"{what}; {count:,} rows, {found['check']['tokens']:,} tokens",
            "peer": peer,
            "own_seconds": middle(seconds[side]),
            "peer_seconds": middle(seconds[name]),
            "own_rows": round(count / middle(seconds[side])),
            "peer_rows": round(count / middle(seconds[name])),
            "speed": ratio(seconds[name], seconds[side]),
            "checked": found[side],
        }
        for side, what in ours.items()
        for name, peer in peers.items()
    ]


def main() -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 20_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as made:
        os.environ["XDG_CACHE_HOME"] = made
        sizes = [1_000] if asked.quick else asked.rows
        rows = [row for size in sizes for row in compare(Path(made), size, asked.rounds, asked.seed)]
    libraries = record.versions("datasets", "tokenizers")
    record.write("check", rows, seeds=[asked.seed], quick=asked.quick, rounds=asked.rounds, libraries=libraries)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
