"""Every page of a study says what it took, or that its record was made before times were kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keeptune.core.usage import hours_of
from keeptune.report.words import took

DOCS = Path(__file__).parent.parent.parent / "docs"
STUDIES = [*sorted((DOCS / "results").glob("*.md")), DOCS / "probing.md", DOCS / "selection.md"]
NO_STUDY = {"real_data.md"}
"""A check of files: nothing is trained."""
SAID = re.compile(r"[0-9.]+ hours of training and measuring|minutes of processor time|made before times were kept")


@pytest.mark.parametrize("page", [page for page in STUDIES if page.name not in NO_STUDY], ids=lambda page: page.name)
def test_a_page_of_a_study_says_what_it_took(page):
    assert SAID.search(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "line"),
    [("selection.md", r"^`.*test rows; all rows: "), ("results/instructions.md", r"^`.*Training rows: ")],
)
def test_each_study_of_a_page_says_so_itself(name, line):
    leads = [one for one in (DOCS / name).read_text(encoding="utf-8").splitlines() if re.match(line, one)]
    assert leads
    assert all(SAID.search(one) for one in leads)


def test_hours_are_those_of_all_runs_or_unknown():
    assert hours_of([{"seconds": 1800.0}, {"seconds": 5400.0}]) == 2.0
    assert hours_of([{"seconds": 1800.0}, {"score": 1.0}]) is None
    assert took(hours_of([{"seconds": 900.0}]), "Own") == "0.25 hours of training and measuring, on Own."
    assert took(None, "Own") == "This record was made before times were kept."
