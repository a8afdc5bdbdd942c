"""Read the open sources of pocket as documents, each assigned to training or to a held-out part.

A document is a list of `(text, role)` pieces: one piece of role "text" for prose, alternating
"user" and "assistant" pieces for a chat, with a "system" piece before an eighth of the training chats.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WHOLE_BOOKS = ("charles-dickens_a-christmas-carol", "jack-london_the-call-of-the-wild")
"""Held out entirely, so that one corpus shares neither author's book nor characters with the training text."""

HELD_OUT_SHARE = 0.04
SYSTEM_SHARE = 0.125
SYSTEM_TURNS = (
    "You are a helpful assistant.",
    "You are a friendly assistant. Answer the user's question.",
    "Answer as well as you can.",
    "You answer questions and follow instructions.",
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Document:
    """One document: `stream` names its source group, `part` is "train" or the name of a held-out corpus."""

    stream: str
    part: str
    pieces: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """One file of the data folder, with what the model card must say about it."""

    path: str
    stream: str
    pieces: Callable[[Row], list[tuple[str, str]]]
    licence: str
    attribution: str


def prose(row: Row) -> list[tuple[str, str]]:
    """The running text of a row."""
    return [(row["text"].strip(), "text")]


def chat(*turns: str) -> list[tuple[str, str]]:
    """Alternating user and assistant turns; nothing where a turn is empty."""
    if not all(turn.strip() for turn in turns):
        return []
    return [(turn.strip(), "assistant" if i % 2 else "user") for i, turn in enumerate(turns)]


def joined(instruction: str, extra: str) -> str:
    """An instruction with its input below it."""
    return f"{instruction.strip()}\n\n{extra.strip()}" if extra.strip() else instruction


def dolly(row: Row) -> list[tuple[str, str]]:
    """databricks-dolly: instruction, optional context, answer."""
    return chat(joined(row["instruction"], row["input"]), row["output"])


def self_instruct(row: Row) -> list[tuple[str, str]]:
    """The first instance of a self-instruct task."""
    instance = row["instances"][0]
    return chat(joined(row["instruction"], instance["input"]), instance["output"])


def gsm8k(row: Row) -> list[tuple[str, str]]:
    """A word problem; the calculator marks are taken out and the last line says the answer."""
    answer = re.sub(r"<<[^>]*>>", "", row["answer"]).replace("#### ", "The answer is ")
    return chat(row["question"], answer)


def flan(row: Row) -> list[tuple[str, str]]:
    """A question with its answer, then the reason for it."""
    return chat(row["input"], f"{row['answer']}\n{row['rationale']}")


def mbpp(row: Row) -> list[tuple[str, str]]:
    """A short programming problem and its solution."""
    return chat(row["text"], row["code"].replace("\r\n", "\n").replace("\t", "    "))


def oasst(row: Row) -> list[tuple[str, str]]:
    """A thread marked "### Human:" and "### Assistant:", and its reply."""
    turns = re.split(r"### (?:Human|Assistant):", row["input"])[1:-1]
    return chat(*turns, row["output"]) if len(turns) % 2 else []


def schema_dialogue(row: Row) -> list[tuple[str, str]]:
    """A dialogue of user and system; it must begin with the user and alternate."""
    turns = row["turns"] if row["turns"][-1]["speaker"] == "SYSTEM" else row["turns"][:-1]
    speakers = [turn["speaker"] for turn in turns]
    if not turns or speakers != ["USER", "SYSTEM"] * (len(turns) // 2):
        return []
    return chat(*(turn["utterance"] for turn in turns))


SOURCES: tuple[Source, ...] = (
    Source(
        "text/standardebooks.jsonl.gz",
        "books",
        prose,
        "public domain (US); the editions CC0 1.0",
        "25 books in the editions of Standard Ebooks, standardebooks.org",
    ),
    Source(
        "text/openstax_textbooks.jsonl.gz",
        "textbooks",
        prose,
        "CC BY 4.0",
        "(c) Rice University / OpenStax, openstax.org: American Government 3e, Anatomy and Physiology, Astronomy, "
        "Business Ethics, Introduction to Anthropology, Introduction to Philosophy, Introduction to Political "
        "Science, Introduction to Sociology, Psychology, U.S. History, World History",
    ),
    Source(
        "text/tinystories_1000.jsonl.gz",
        "stories",
        prose,
        "CDLA-Sharing 1.0",
        "TinyStories, Ronen Eldan and Yuanzhi Li",
    ),
    Source(
        "instructions/dolly_4k.jsonl.gz", "chats", dolly, "CC BY-SA 3.0", "databricks-dolly-15k, (c) Databricks, Inc."
    ),
    Source(
        "instructions/self_instruct_seed_tasks.jsonl.gz",
        "chats",
        self_instruct,
        "Apache-2.0",
        "Self-Instruct seed tasks, Yizhong Wang et al.",
    ),
    Source(
        "instructions/self_instruct_user_oriented.jsonl.gz",
        "chats",
        self_instruct,
        "Apache-2.0",
        "Self-Instruct user-oriented instructions, Yizhong Wang et al.",
    ),
    Source(
        "dialogue/oasst1_en_validation.jsonl.gz",
        "chats",
        oasst,
        "Apache-2.0",
        "OpenAssistant Conversations (OASST1), LAION",
    ),
    Source(
        "dialogue/sgd_dev.jsonl.gz",
        "chats",
        schema_dialogue,
        "CC BY-SA 4.0",
        "Schema-Guided Dialogue (DSTC8), (c) Google LLC",
    ),
    Source("math/gsm8k_train.jsonl.gz", "chats", gsm8k, "MIT", "GSM8K, (c) OpenAI"),
    Source(
        "tasks/flan_cot_sample.jsonl.gz",
        "chats",
        flan,
        "Apache-2.0 (sets under MIT, CC BY, CDLA)",
        "FLAN chain-of-thought (StrategyQA, CREAK, ECQA, QASC, SenseMaking, AQuA), Google LLC and the sets' authors",
    ),
    Source("code/mbpp.jsonl.gz", "chats", mbpp, "CC BY 4.0", "MBPP, (c) Google LLC"),
)


def fraction(name: str) -> float:
    """A stable number in [0, 1) for a name, by SHA-256."""
    return int.from_bytes(hashlib.sha256(f"pocket/{name}".encode()).digest()[:4], "big") / 2**32


def held_out(name: str) -> bool:
    """Whether a document's name falls in the held-out share."""
    return fraction(name) < HELD_OUT_SHARE


def with_system_turn(document: Document) -> Document:
    """The document with a general system turn, if it is one of the training chats chosen for that."""
    place = fraction(f"system/{document.pieces[0][0]}")
    if document.stream != "chats" or document.part != "train" or place >= SYSTEM_SHARE:
        return document
    turn = SYSTEM_TURNS[int(place / SYSTEM_SHARE * len(SYSTEM_TURNS))]
    return Document(document.stream, document.part, ((turn, "system"), *document.pieces))


def part_of(source: Source, row: Row, pieces: list[tuple[str, str]]) -> str:
    """The part a document belongs to: "train" or the name of a held-out corpus.

    Chats are assigned by their first user turn, so that two answers to one question never straddle the split.
    """
    if row.get("book") in WHOLE_BOOKS:
        return "whole_books"
    name = row["doc"] if "doc" in row else pieces[0][0]
    return source.stream if held_out(name) else "train"


def documents(data: Path) -> Iterator[Document]:
    """Every usable document of every source under the data folder."""
    for source in SOURCES:
        with gzip.open(data / source.path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                pieces = source.pieces(row)
                if pieces:
                    yield with_system_turn(Document(source.stream, part_of(source, row, pieces), tuple(pieces)))
