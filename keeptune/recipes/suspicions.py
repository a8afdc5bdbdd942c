"""What `keeptune check` refuses although every row can be read: a test that is known already, labels that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from keeptune.core.counting import counted
from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.data.decontaminate import Overlap

# Public test sets hold a percent or two of their training questions; rows about one text are often near each other.
MOST_EXACT, MOST_NEAR, MOST_UNKNOWN = 0.05, 0.25, 0.5


def leak(found: Overlap, test: Sequence[Example]) -> DataError | None:
    """E-LEAK when training asks more than 5% of the test rows exactly, or more than 25% exactly or nearly.

    Args:
        found: between all training rows and all rows that are measured.
        test: rows that are measured.
    """
    exact, near = len(found.exact), len(found.exact) + len(found.near)
    if not test or (exact <= MOST_EXACT * len(test) and near <= MOST_NEAR * len(test)):
        return None
    first = test[(found.exact or found.near)[0][1]]
    return DataError(
        f"training asks {exact:,} of the {counted(len(test), 'test row')} exactly and {len(found.near):,} nearly.",
        code="E-LEAK",
        where={"line": first.line, "key": first.source or None},
        why="The score on them would measure memory.",
        fix="Take these rows out of the training data, or allow them with `leaks: allow`; the report then says so.",
    )


def label_fault(name: str, answers: Counter[str], test: Sequence[Example]) -> DataError | None:
    """E-DATA-LABELS when training has one label only, or most test rows have a label that training never shows."""
    where = {"key": name}
    if len(answers) == 1:
        return DataError(
            f"every training row has the same label, '{next(iter(answers))}'.",
            code="E-DATA-LABELS",
            where=where,
            why="The model would learn to say it whatever is asked.",
            fix="Add rows of the other labels, or look whether `completion:` names the right column.",
        )
    unknown = Counter(row.target.strip() for row in test if row.target.strip() not in answers)
    if test and unknown.total() > MOST_UNKNOWN * len(test):
        return DataError(
            f"{unknown.total():,} of {len(test):,} test rows have a label that no training row has: {_few(unknown)}.",
            code="E-DATA-LABELS",
            where=where,
            why="The model cannot learn what it is never shown.",
            fix="Use the same names in both files, such as 'positive' and not 'Positive'.",
        )
    return None


def label_notes(answers: Counter[str], test: Sequence[Example]) -> list[str]:
    """How the labels of training and test differ."""
    tested = Counter(row.target.strip() for row in test)
    notes = []
    for what, missing in (
        ("in test and never in training", Counter({key: tested[key] for key in tested if key not in answers})),
        ("in training and never in test", Counter({key: answers[key] for key in answers if key not in tested})),
    ):
        if missing and test:
            labels, rows = counted(len(missing), "label is", "labels are"), counted(missing.total(), "row")
            notes.append(f"{labels} {what}: {_few(missing)} ({rows})")
    return notes


def _few(labels: Counter[str]) -> str:
    shown = ", ".join(f"'{label}'" for label, _ in labels.most_common(3))
    return shown + (", ..." if len(labels) > 3 else "")
