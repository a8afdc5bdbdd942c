from __future__ import annotations

import pytest

from tests.stages.tiny_training import Bench


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)
