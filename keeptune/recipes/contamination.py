"""What training has seen of what the proof measures: stated in the certificate, for every part of the proof."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keeptune.core.example import Example
from keeptune.data.decontaminate import TestRows, TrainedRow

if TYPE_CHECKING:
    from keeptune.core.score import Score
    from keeptune.data.suite import Suite
    from keeptune.recipes.material import Material


def contamination(material: Material, suite: Suite | None, measured: Sequence[Score] = ()) -> list[dict[str, Any]]:
    """For each measured part: its items, and how many of them training or replay data ask or quote.

    Kinds as `data.decontaminate` defines them: `exact`, `near`, `ngram` (13 words in a row), each item counted once.

    Args:
        material: what is trained on, self-generated text included, and the target's held-out rows.
        suite: what retention is measured on.
        measured: scores of a model: the items of harness tasks are not known before they were asked.

    Returns:
        `{"measured", "items", "exact", "near", "ngram"}`, the target first, then the suite in its order.
    """
    trained = (example for name in material.train for example in material.sources[name].train)
    return seen_by(trained, {**_target(material), **suite_parts(suite, measured)})


def seen_by(trained: Iterable[Example], parts: Mapping[str, Sequence[Example]]) -> list[dict[str, Any]]:
    """The counts of `contamination` for parts by name, held against rows that are read once."""
    held = {name: TestRows(rows) for name, rows in parts.items()}
    for index, row in enumerate(map(TrainedRow, trained)):
        for tests in held.values():
            tests.see(index, row)
    found = []
    for name, tests in held.items():
        counts = tests.overlap().counts()
        kinds = {kind: counts[kind] for kind in ("exact", "near", "ngram")}
        found.append({"measured": name, "items": len(parts[name]), **kinds})
    return found


def suite_parts(suite: Suite | None, measured: Sequence[Score] = ()) -> dict[str, Sequence[Example]]:
    """What a suite asks, by the name of each part; items of harness tasks from the scores of a model."""
    return {} if suite is None else {**dict(_parts(suite)), **dict(_harness(suite, measured))}


def _target(material: Material) -> dict[str, Sequence[Example]]:
    if material.target is None:
        return {}
    source = material.sources[material.target]
    return {f"{material.target}, {part}": rows for part in ("test", "ood") if (rows := getattr(source, part))}


def _harness(suite: Suite, measured: Sequence[Score]) -> Iterator[tuple[str, Sequence[Example]]]:
    names = {task.name for task in suite.harness}
    for score in measured:
        if score.kind == "accuracy" and score.task in names:
            yield score.task, [Example(item.id, text=item.prompt) for item in score.items]


def _parts(suite: Suite) -> Iterator[tuple[str, Sequence[Example]]]:
    for task in suite.tasks:
        yield task.name, [Example(item.id, text=item.prompt) for item in task.items]
    for open_task in suite.generations:
        yield open_task.name, [Example(item.id, text=item.prompt) for item in open_task.items]
    for corpus in suite.corpora:
        yield corpus.name, [Example(document.id, text=document.text) for document in corpus.documents]
    if suite.instructions:
        yield "unrelated requests", [Example(str(i), text=text) for i, text in enumerate(suite.instructions)]
