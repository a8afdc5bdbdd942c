"""Suite: the fixed set of questions, texts and instructions on which base and adapted model are compared."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Literal

from keeptune.core.digest import digest_of

GenerationMetric = Literal["exact_match", "rouge_1", "rouge_2", "rouge_l", "token_f1"]

Normalisation = Literal["none", "bytes", "prior"]


@dataclass(frozen=True)
class Choice:
    """A question with options, of which `options[gold]` is right. An option is appended to the prompt as it stands."""

    id: str
    prompt: str
    options: tuple[str, ...]
    gold: int
    cluster: str = ""


@dataclass(frozen=True)
class ChoiceTask:
    """Multiple choice, answered by likelihood.

    Attributes:
        name: as the certificate shows it.
        items: the questions.
        chance: expected accuracy of guessing.
        chat: the prompt is a user's turn and an option the assistant's whole answer, its end of turn included.
        normalise: what is compared. `none`: log p(option | prompt). `bytes`: that per byte, for options of different
            lengths. `prior`: log p(option | prompt) - log p(option), what the prompt adds, for options that are
            likely to different degrees by themselves.
    """

    name: str
    items: tuple[Choice, ...]
    chance: float
    chat: bool = False
    normalise: Normalisation = "none"


@dataclass(frozen=True)
class Document:
    """A text whose bits per byte are measured; documents of one cluster are not independent."""

    id: str
    text: str
    cluster: str = ""


@dataclass(frozen=True)
class Corpus:
    """Documents of one kind."""

    name: str
    documents: tuple[Document, ...]


@dataclass(frozen=True)
class Question:
    """An open question with its reference answer."""

    id: str
    prompt: str
    answer: str
    cluster: str = ""


@dataclass(frozen=True)
class GenerationTask:
    """Open questions, answered by greedy generation and scored against the reference."""

    name: str
    items: tuple[Question, ...]
    metric: GenerationMetric = "exact_match"
    max_new_tokens: int = 64


@dataclass(frozen=True)
class HarnessTask:
    """A task of lm-evaluation-harness, whose items are known when it is measured.

    Attributes:
        name: as the certificate shows it.
        task: the harness's name of it, or the configuration of a local one as JSON.
        metric: one of the task's; its first when empty.
        most: ask only so many items of each of its parts; all when None.
        digest: of local data files.
        items: how many it has, where the suite file says so; for a forecast alone.
    """

    name: str
    task: str
    metric: str = ""
    most: int | None = None
    digest: str = ""
    items: int | None = None

    @property
    def size(self) -> int | None:
        """Items that will be asked, as far as it is known before."""
        known = [count for count in (self.items, self.most) if count is not None]
        return min(known) if known else None


@dataclass(frozen=True)
class Suite:
    """What retention is measured on.

    Attributes:
        name: `embedded`, or the file's name.
        version: changes when the questions do.
        tasks: multiple choice.
        corpora: texts for bits per byte.
        generations: open questions.
        harness: tasks of lm-evaluation-harness.
        instructions: unrelated requests whose free answers show whether the training format leaks.
    """

    name: str
    version: str
    tasks: tuple[ChoiceTask, ...] = ()
    corpora: tuple[Corpus, ...] = ()
    generations: tuple[GenerationTask, ...] = ()
    harness: tuple[HarnessTask, ...] = ()
    instructions: tuple[str, ...] = field(default=(), repr=False)

    def digest(self) -> str:
        """SHA-256 of everything that is asked."""
        return digest_of(asdict(self))

    def sizes(self) -> dict[str, int | None]:
        """Items of every accuracy task, in the certificate's order; None where they are known only once asked."""
        own: dict[str, int | None] = {task.name: len(task.items) for task in self.tasks}
        own |= {task.name: len(task.items) for task in self.generations}
        return own | {task.name: task.size for task in self.harness}

    def stamp(self) -> dict[str, str]:
        """What a certificate says of it: name, version, digest."""
        return {"name": self.name, "version": self.version, "digest": self.digest()}


def stable_id(*parts: str) -> str:
    """Twelve hexadecimal digits that depend on the content alone, so that items keep their ids when others change."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]
