"""What training has seen of the proof: planted rows are found in the part where they were planted, and nowhere else."""

from __future__ import annotations

import dataclasses

from keeptune.core.example import Example, Message
from keeptune.core.score import Item, Score
from keeptune.data.suite import Choice, ChoiceTask, Corpus, Document, HarnessTask, Suite
from keeptune.recipes.contamination import contamination
from keeptune.recipes.material import Material
from keeptune.recipes.sources import Source


def asked(id, text, answer="yes"):
    return Example(id, messages=(Message("user", text), Message("assistant", answer)))


TRAIN = (
    asked("1", "where does the harbour master keep the spare keys of the lighthouse"),
    asked("2", "how many lanterns hang over the long quay when the fishing boats come home at night in winter"),
)
QUOTED = "He wrote: how many lanterns hang over the long quay when the fishing boats come home at night, and left."
OWN = asked("3", "my own replayed words about pears")
TEST = (
    asked("4", "Where does the harbour master keep the spare keys of the lighthouse?"),
    asked("5", "what colour is the sea"),
)
SOURCES = {
    "task": Source("task", train=TRAIN, test=TEST),
    "replay": Source("replay", train=(OWN,)),
    "unused": Source("unused", train=(asked("6", "what colour is the sea"),)),
}
SUITE = Suite(
    "small", "1",
    tasks=(ChoiceTask("pears", (Choice("a", "my own replayed words about pears", ("x", "y"), 0),), 0.5),),
    corpora=(Corpus("prose", (Document("b", QUOTED), Document("c", "Nothing of the kind."))),),
)  # fmt: skip


def found(material, suite):
    return {row.pop("measured"): row for row in contamination(material, suite)}


def test_every_part_says_what_training_has_seen_of_it():
    material = Material(SOURCES, train={"task": None, "replay": None}, target="task")
    assert found(material, SUITE) == {
        "task, test": {"items": 2, "exact": 1, "near": 0, "ngram": 0},
        "pears": {"items": 1, "exact": 1, "near": 0, "ngram": 0},
        "prose": {"items": 2, "exact": 0, "near": 0, "ngram": 1},
    }


def test_only_what_is_trained_on_counts():
    material = Material(SOURCES, train={"unused": None}, target="task")
    assert found(material, SUITE)["task, test"]["exact"] == 1
    silent = dataclasses.replace(material, train={})
    assert not any(row[kind] for row in found(silent, SUITE).values() for kind in ("exact", "near", "ngram"))


def test_items_of_the_harness_are_held_against_training_once_they_were_asked():
    suite = dataclasses.replace(SUITE, harness=(HarnessTask("quiz", "quiz_of_the_harness"),))
    material = Material(SOURCES, train={"task": None}, target="task")
    assert "quiz" not in found(material, suite)
    prompts = (TRAIN[0].messages[0].content, QUOTED, "Question: what is new?")
    items = tuple(Item(str(n), "quiz", 1.0, prompt=prompt) for n, prompt in enumerate(prompts))
    measured = [
        Score("quiz", "accuracy", "acc", 1.0, True, 3, 0.0, None, items),
        Score("pears", "accuracy", "accuracy", 1.0, True, 1, 0.0, None, ()),
    ]
    rows = {row.pop("measured"): row for row in contamination(material, suite, measured)}
    assert rows["quiz"] == {"items": 3, "exact": 1, "near": 0, "ngram": 1}
    assert rows["pears"]["items"] == 1
