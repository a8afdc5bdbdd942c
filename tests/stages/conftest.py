from __future__ import annotations

import os

import pytest

from tests.stages.tiny_training import Bench


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Without waiting for the disk; what a crash leaves is tested in tests/core and tests/reliability."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Bench(tmp_path)
