"""Settings that every test shares: one thread, no network, no leftover environment."""

from __future__ import annotations

import gc
import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="module")
def _settled():
    """Trainer collects garbage at every start; what imports and earlier files made need not be looked at each time."""
    gc.collect()
    gc.freeze()
