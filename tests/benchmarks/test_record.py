"""What a record says of the command that made it."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import record


def test_paths_are_named_and_every_other_word_stays(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "data/here/", "runs", "--again", "--seed", "3"])
    record.without_paths(DATA=Path("data/here"), FOLDER=Path("runs"), OTHER=None)
    assert sys.argv[1:] == ["DATA", "FOLDER", "--again", "--seed", "3"]
