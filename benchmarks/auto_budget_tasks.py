"""The tasks that `benchmarks.auto_budget` gives to `auto`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Rows with a label, and the words that say what is wanted.

    Attributes:
        file: under DATA, without its ending.
        prompt: with the column in braces.
        label: the column.
        says: for the page.
    """

    file: str
    prompt: str
    label: str
    says: str

    @property
    def settings(self) -> list[str]:
        """What a user would set."""
        return [f'data.task.prompt="{self.prompt}"', f"data.task.completion={self.label}"]


TASKS = {
    "trec": Task(
        "nlu/trec_train", "Which kind of thing does this question ask for? {text}", "label_coarse",
        "kinds of questions (TREC, 6 labels)",
    ),
    "ag_news": Task(
        "nlu/ag_news_train", "Which topic is this about? {sentence}", "label", "topics of news (AG News, 4 labels)"
    ),
    "dbpedia": Task(
        "nlu/dbpedia14", "Which kind of thing is this? {sentence}", "label", "kinds of entities (DBpedia, 14 labels)"
    ),
}  # fmt: skip
