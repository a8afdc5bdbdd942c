"""The throughput of `check` is compared on equal work: both sides count the same rows, tokens and learned tokens."""

from __future__ import annotations

import pytest

from benchmarks.check import encoded, own, theirs, write_rows
from keeptune.models.load import load

pytest.importorskip("datasets")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_both_sides_encode_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, tokenizer = write_rows(tmp_path, 40, seed=1), load("pocket").tokenizer
    counts = own(tmp_path)
    assert counts["kept"] == 40
    assert 0 < counts["learned"] < counts["tokens"]
    assert counts == encoded(tmp_path, tokenizer)
    assert counts == theirs(path, tokenizer, batched=False) == theirs(path, tokenizer, batched=True)
