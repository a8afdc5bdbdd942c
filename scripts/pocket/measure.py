"""What a checkpoint of pocket can do: bits per byte on held-out text, accuracy by likelihood on held-out skills."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from batches import Stream, even_rows
from network import Network
from prepare import ASSISTANT, END, USER
from tokenizers import Tokenizer
from torch import Tensor

from keeptune.pocket.bytes_per_token import byte_lengths
from keeptune.pocket.skills import SKILLS, SkillItem, items

SKILL_SEED = "model card"


@dataclass(frozen=True)
class Measured:
    """A figure and what it rests on: `n` bytes for a corpus, `n` items for a skill; `chance` of a skill."""

    value: float
    n: int
    chance: float | None = None


@torch.no_grad()
def logprobs(network: Network, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Log-probability of every token after the first: B x T ids to B x (T - 1), in nats."""
    hidden = network.hidden(tokens[:, :-1], dtype)
    logits = F.linear(hidden, network.embedding.to(dtype)).float()
    return -F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)


def corpora(network: Network, work: Path, length: int, windows: int, dtype: torch.dtype) -> dict[str, Measured]:
    """Bits per byte on up to `windows` windows of `length` tokens of every held-out stream under `work`."""
    lengths = torch.tensor(byte_lengths(Tokenizer.from_file(str(work / "tokenizer.json"))))
    measured = {}
    for path in sorted(work.glob("dev_*.safetensors")):
        rows = even_rows(Stream.load(path), length, windows)
        nats = -sum(float(logprobs(network, part, dtype).sum()) for part in rows.split(16))
        count = int(lengths[rows[:, 1:]].sum())
        measured[path.stem.removeprefix("dev_")] = Measured(nats / math.log(2) / count, count)
    return measured


def options(item: SkillItem, tokenizer: Tokenizer) -> list[tuple[list[int], int]]:
    """The right answer, then the wrong ones: token ids of the whole chat, and where the answer begins."""
    prompt = [USER, *tokenizer.encode(item.prompt).ids, ASSISTANT]
    answers = (item.answer, *item.distractors)
    return [([*prompt, *tokenizer.encode(answer).ids, END], len(prompt)) for answer in answers]


def score(network: Network, batch: list[tuple[list[int], int]], dtype: torch.dtype) -> list[float]:
    """Mean log-probability of the answer's tokens (its end included) for each (ids, start)."""
    longest = max(len(ids) for ids, _ in batch)
    tokens = torch.tensor([ids + [END] * (longest - len(ids)) for ids, _ in batch])
    values = logprobs(network, tokens, dtype)
    return [
        float(row[start - 1 : len(ids) - 1].mean()) for row, (ids, start) in zip(values.unbind(0), batch, strict=True)
    ]


def skills(network: Network, tokenizer: Tokenizer, count: int, dtype: torch.dtype) -> dict[str, Measured]:
    """Share of `count` test items of each skill whose right answer is the likeliest option."""
    measured = {}
    for name, generator in SKILLS.items():
        asked = list(islice(items(generator, SKILL_SEED, "test"), count))
        right, chance = 0, 0.0
        for begin in range(0, count, 16):
            groups = [options(item, tokenizer) for item in asked[begin : begin + 16]]
            values = iter(score(network, [option for group in groups for option in group], dtype))
            for group in groups:
                scores = [next(values) for _ in group]
                right += scores[0] > max(scores[1:])
                chance += 1 / len(group)
        measured[name] = Measured(right / count, count, chance / count)
    return measured
