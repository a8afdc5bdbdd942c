from __future__ import annotations

import gc
import os

import pytest
import transformers  # noqa: F401

from tests.stages.tiny_training import Bench

# Trainer collects garbage at every start; what the imports made need not be looked at each time.
gc.freeze()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Without waiting for the disk; what a crash leaves is tested in tests/core and tests/reliability."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Bench(tmp_path)
