"""Train pocket's tokenizer and encode the corpus: `python scripts/pocket/prepare.py --data DATA --work WORK`."""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from corpus import Document, documents
from drills import drill
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from keeptune.pocket.skills import SKILLS, items

SPECIALS = ("<|end|>", "<|user|>", "<|assistant|>", "<|pad|>", "<|system|>")
END, USER, ASSISTANT, SYSTEM = 0, 1, 2, 4
OPENING = {"user": USER, "system": SYSTEM}
SKILL_SEED = "pretraining"
SKILL_SHARES = {
    "copying": 0.06,
    "arithmetic": 0.25,
    "comparison": 0.10,
    "key_recall": 0.06,
    "mapping": 0.10,
    "lookup": 0.25,
    "category": 0.08,
    "position": 0.10,
}
DRILLS_PER_ITEM = 0.25
"""Drills are several times as long as items: about half of the skill tokens are drills."""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE; every digit is a token of its own, so that numbers of one length have equal lengths."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, pieces: tuple[tuple[str, str], ...]) -> tuple[list[int], list[int]]:
    """Token ids of one document and, for each, 1 where the model should learn to produce it.

    Everything in prose is learned; in a chat the assistant's text and the token that ends the turn are.
    """
    ids: list[int] = []
    learned: list[int] = []
    for text, role in pieces:
        text_ids = tokenizer.encode(text, add_special_tokens=False).ids
        if role in OPENING:
            ids += [OPENING[role], *text_ids]
            learned += [0] * (len(text_ids) + 1)
        else:
            marker = [ASSISTANT] if role == "assistant" else []
            ids += [*marker, *text_ids, END]
            learned += [0] * len(marker) + [1] * (len(text_ids) + 1)
    return ids, learned


def skill_documents(count: int) -> list[Document]:
    """`count` training items of the skills, in their shares, as one-turn chats, and the drills as many-turn chats."""
    made = []
    for name, share in SKILL_SHARES.items():
        stream = items(SKILLS[name], SKILL_SEED, "train")
        for _ in range(round(count * share)):
            item = next(stream)
            made.append(Document("skills", "train", ((item.prompt, "user"), (item.answer, "assistant"))))
    source = random.Random(f"drill/{SKILL_SEED}")
    for _ in range(round(count * DRILLS_PER_ITEM)):
        turns = [(text, role) for pair in drill(source) for text, role in zip(pair, ("user", "assistant"), strict=True)]
        made.append(Document("skills", "train", tuple(turns)))
    return made


def write_stream(path: Path, tokenizer: Tokenizer, made: list[Document]) -> dict[str, int]:
    """One array of tokens, its learned marks and the start of each document."""
    ids: list[int] = []
    learned: list[int] = []
    starts: list[int] = []
    for document in made:
        starts.append(len(ids))
        document_ids, document_learned = encode(tokenizer, document.pieces)
        ids += document_ids
        learned += document_learned
    arrays = {
        "tokens": np.array(ids, dtype=np.uint16),
        "learned": np.array(learned, dtype=np.uint8),
        "starts": np.array(starts, dtype=np.int64),
    }
    save_file(arrays, str(path))
    text_bytes = sum(len(text.encode()) for document in made for text, _ in document.pieces)
    return {"documents": len(made), "tokens": len(ids), "bytes": text_bytes}


def prepare(data: Path, work: Path, vocabulary: int, skill_items: int) -> dict[str, dict[str, int]]:
    """Write `tokenizer.json`, `train_*.safetensors`, `dev_*.safetensors` and `corpus.json` under `work`."""
    work.mkdir(parents=True, exist_ok=True)
    made = list(documents(data))
    skills = skill_documents(skill_items)
    train_texts = [text for d in made if d.part == "train" for text, role in d.pieces if role != "system"]
    tokenizer = train_tokenizer(train_texts, vocabulary)
    tokenizer.save(str(work / "tokenizer.json"))
    groups: dict[str, list[Document]] = defaultdict(list)
    for document in [*made, *skills]:
        name = f"train_{document.stream}" if document.part == "train" else f"dev_{document.part}"
        groups[name].append(document)
    counts = {}
    for name, group in sorted(groups.items()):
        random.Random(f"order/{name}").shuffle(group)
        counts[name] = write_stream(work / f"{name}.safetensors", tokenizer, group)
    (work / "corpus.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    return counts


def main() -> None:
    """Parse the arguments and prepare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds text/, instructions/, ...")
    parser.add_argument("--work", type=Path, required=True, help="where the arrays, checkpoints and log go")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--skill-items", type=int, default=60_000)
    arguments = parser.parse_args()
    print(json.dumps(prepare(arguments.data, arguments.work, arguments.vocabulary, arguments.skill_items), indent=2))


if __name__ == "__main__":
    main()
