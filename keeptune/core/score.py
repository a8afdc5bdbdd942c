"""Score: one measured number with its items; two scores over the same items can be compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["target", "accuracy", "corpus", "leak", "drift", "diagnosis"]


@dataclass(frozen=True)
class Item:
    """The record of one item of an evaluation.

    Attributes:
        id: stable across runs; pairs are made by (task, id).
        score: the item's own score (0 or 1 for binary tasks; bits for a corpus).
        cluster: what the bootstrap resamples: document, subject, dialogue; the id when items are independent.
        size: the denominator of a ratio score (bytes of a document); 1 otherwise.
        gold_logprob: log-probability (nats) of the gold answer, where it was computed.
    """

    id: str
    task: str
    score: float
    cluster: str = ""
    prompt: str = ""
    gold: str = ""
    prediction: str = ""
    gold_logprob: float | None = None
    size: float = 1.0
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `items.jsonl.gz`."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Item:
        """The inverse of `to_dict`; keys that belong to the file, such as `checkpoint`, are left out.

        Files hold a number that is not finite as a string (`"nan"`), which becomes the number again.
        """
        known = {key: plain[key] for key in cls.__dataclass_fields__ if key in plain}
        numbers = {key: float(known[key]) for key in ("score", "size", "gold_logprob") if known.get(key) is not None}
        return cls(**{**known, **numbers})


@dataclass(frozen=True)
class Score:
    """A measured number.

    Attributes:
        task: name of the task or corpus.
        kind: which part of the certificate it belongs to.
        metric: `accuracy`, `exact_match`, `label_accuracy`, `rouge_l`, `token_f1`, `bits_per_byte`, `leak`, ...
        value: the score; accuracies as fractions, bits per byte in bits.
        higher_is_better: direction of the metric.
        n: number of items.
        standard_error: of the value (clustered where items are).
        chance: what guessing gives; None where the word has no meaning.
        items: the per-item records, in the order of the task.
    """

    task: str
    kind: Kind
    metric: str
    value: float
    higher_is_better: bool
    n: int
    standard_error: float
    chance: float | None = None
    items: tuple[Item, ...] = ()

    @property
    def binary(self) -> bool:
        """Whether every item scores 0 or 1."""
        return all(item.score in (0.0, 1.0) for item in self.items)
