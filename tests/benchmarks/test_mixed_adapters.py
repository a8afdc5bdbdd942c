"""The measurement of mixed adapters: both sides say the same, on a tiny model, and a difference is seen."""

from __future__ import annotations

import pytest
import torch

from benchmarks import mixed_adapters, workload
from benchmarks.table import mixed


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_peft_reads_our_adapters_and_says_the_same(tmp_path, monkeypatch):
    tiny = {"vocab_size": 200, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    monkeypatch.setattr(workload, "SHAPE", {**workload.SHAPE, **tiny})
    monkeypatch.setattr(mixed_adapters, "ROWS", 4)
    folder = workload.write_model(tmp_path / "model", 0)
    row = mixed_adapters.compare(folder, "float32", 3, 2, 0, peft=True)
    assert 0 < row["checked"]["difference_of_logits"] <= 1e-4
    assert row["speed"]["n"] == row["share"]["n"] == 2
    assert mixed(row)[1] == "PEFT's adapter_names"
    alone = mixed_adapters.compare(folder, "float32", 3, 1, 0, peft=False)
    assert mixed(alone)[1:3] == ["", ""]


def test_logits_that_differ_by_more_than_rounding_end_the_measurement():
    a = torch.ones(2, 3, 4)
    assert mixed_adapters.agree(a, a.clone(), "float32") == 0
    with pytest.raises(AssertionError, match="apart"):
        mixed_adapters.agree(a, a + 1e-3, "float32")
    with pytest.raises(AssertionError, match="apart"):
        mixed_adapters.agree(a, a * 1.05, "bfloat16")
