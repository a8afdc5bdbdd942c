"""The model card, written from the corpus counts, the run's log and the figures measured at export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from corpus import SOURCES, WHOLE_BOOKS
from measure import Measured

CORPUS_NAMES = {
    "books": "books, held-out chapters",
    "whole_books": "books, two held out whole",
    "textbooks": "textbooks, held-out sections",
    "stories": "children's stories, held out",
    "chats": "chats, held out (both sides)",
}
HEADER = """---
license: cc-by-sa-4.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# pocket

A Llama of {parameters:.2f} million parameters (width 256, 6 layers, 4 heads, vocabulary 4,096, context 1,024; rows of
up to 512 tokens were trained), small enough to stand in a package and to be tuned on a CPU in minutes. It exists so
that adaptation and forgetting can be studied anywhere. It is no source of facts.
"""
FORMAT = """## Format

`<|user|>question<|assistant|>answer<|end|>`, an optional `<|system|>text` before it; documents of prose end in
`<|end|>` too. No token is put at the beginning. The chat template marks the assistant's part."""
LIMITS = """## Limits

English only. It writes grammatical sentences and invents their content. Asked freely it gets most sums wrong and finds
only some of the looked-up values; what it does well, it does in the wordings that it was taught. The books are a
century old and carry the views of their time."""


def stretches(work: Path) -> list[dict[str, Any]]:
    """The settings of each stretch of training in the log, with the steps it covered; unchanged resumes are one."""
    found: list[dict[str, Any]] = []
    for line in (work / "log.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry.get("event") == "start" and (not found or found[-1]["settings"] != entry["settings"]):
            found.append({"first": entry["step"], "settings": entry["settings"]})
        found[-1]["last"], found[-1]["tokens"] = entry["step"], entry.get("tokens", found[-1].get("tokens", 0))
    return [stretch for stretch in found if stretch["last"] > stretch["first"]]


def training_table(work: Path, state: dict[str, Any]) -> list[str]:
    """How many tokens, in which stretches, at which rates."""
    lines = [
        f"{state['tokens'] / 1e6:.1f} million tokens in {state['step']:,} steps on two CPU threads in bfloat16. "
        "Muon (Jordan et al. 2024) for the matrices, AdamW for the embedding and norms; warmup, constant rate, "
        "then a linear decay to zero.",
        "",
        "| steps | rows of a batch | tokens a row | loss | rates (Muon, AdamW) | decay |",
        "|---|---|---|---|---|---|",
    ]
    for stretch in stretches(work):
        s = stretch["settings"]
        rows = ", ".join(f"{count} {name}" for name, count in s["rows"].items())
        masked = f"assistant only in {', '.join(s['masked'])}" if s["masked"] else "every token"
        decay = f"to 0 in {s['decay_steps']}" if s["decay_steps"] else "none"
        rates = f"{s['matrix_rate']}, {s['vector_rate']}"
        lines.append(
            f"| {stretch['first']}-{stretch['last']} | {rows} | {s['length']} | {masked} | {rates} | {decay} |"
        )
    return lines


def data_table(work: Path) -> list[str]:
    """Every source with its licence and attribution, and the counts of each stream."""
    counts = json.loads((work / "corpus.json").read_text(encoding="utf-8"))
    lines = ["| source | licence | attribution |", "|---|---|---|"]
    lines += [f"| `{s.path}` | {s.licence} | {s.attribution} |" for s in SOURCES]
    lines += [
        "",
        "Changes made: running text only, chats brought into one format, calculator marks removed. The share-alike "
        "terms of Dolly and SGD are the reason for this folder's licence.",
        "",
        "| training stream | documents | tokens | bytes |",
        "|---|---|---|---|",
    ]
    for name, c in counts.items():
        if name.startswith("train_"):
            lines.append(f"| {name[6:]} | {c['documents']:,} | {c['tokens']:,} | {c['bytes']:,} |")
    lines += [
        "",
        f"Held out by document: 4% of each source by a hash of its name, and {' and '.join(WHOLE_BOOKS)} whole. "
        "`skills` is made by the seeded generators of `keeptune/pocket/skills.py`, training part only.",
    ]
    return lines


def figures_table(figures: dict[str, Measured], abilities: dict[str, Measured]) -> list[str]:
    """Bits per byte and skill accuracy, each with its n."""
    lines = ["| held-out text | bits per byte | bytes |", "|---|---|---|"]
    lines += [f"| {CORPUS_NAMES.get(n, n)} | {m.value:.3f} | {m.n:,} |" for n, m in figures.items()]
    lines += [
        "",
        "Windows of 512 tokens, no overlap: the first tokens of a window are guessed blind. One seed.",
        "",
        "| skill, test items | accuracy | standard error | chance | n |",
        "|---|---|---|---|---|",
    ]
    for name, m in abilities.items():
        error = (m.value * (1 - m.value) / m.n) ** 0.5
        lines.append(f"| {name} | {m.value:.3f} | {error:.3f} | {m.chance:.2f} | {m.n:,} |")
    lines += [
        "",
        "Likeliest of the options by mean log-probability a token; contents never trained on (`skills.split`).",
    ]
    return lines


def model_card(
    work: Path,
    state: dict[str, Any],
    *,
    figures: dict[str, Measured],
    abilities: dict[str, Measured],
    difference: float,
    size: int,
    note: str,
) -> str:
    """The whole card as Markdown.

    Args:
        work: the folder of the run (corpus counts and log).
        state: the exported commit's state.
        figures: bits per byte by held-out stream.
        abilities: accuracy by skill.
        difference: largest difference of logits to transformers' Llama.
        size: bytes of `model.safetensors`.
        note: what the log does not say about the training; may be empty.
    """
    parameters = size / 2e6
    sections = [
        HEADER.format(parameters=parameters).rstrip(),
        "## What it can do\n\n" + "\n".join(figures_table(figures, abilities)),
        FORMAT,
        "## Training\n\n" + "\n".join(training_table(work, state)) + (f"\n\n{note}" if note else ""),
        "## Data\n\n" + "\n".join(data_table(work)),
        LIMITS,
        "## Made by\n\nThe commands are in `scripts/pocket/README.md`. Largest difference of fp32 logits to "
        f"`LlamaForCausalLM` at export: {difference:.1e}; model.safetensors: {size:,} bytes.",
    ]
    return "\n\n".join(sections) + "\n"
