"""Recipes on a ViT, from a file of images to the certificate."""

from __future__ import annotations

import json
import random

import pytest
import torch

from keeptune.models.load import load
from keeptune.recipes.run import run
from tests.tiny_models import tiny_model

RECIPE = """
name: tiny-images
seed: 7
model: {{name: {folder}/model, dtype: float32}}
data:
  task: {{format: images, path: {folder}/rows.jsonl, top: 16}}
split: {{dev: 0.1, test: 0.3}}
stages:
{stages}
proof: {{target: {{data: task, metric: label_accuracy}}, suite: embedded, items: 50}}
"""
STAGE = """
  - name: train
    method: {method}
    {scope}
    data: task
    losses: [label]
    optimizer: {{name: adamw, lr: 1.0e-2, schedule: constant}}
    epochs: {epochs}
    batch_tokens: 768
"""
HEAD = "{name: head, pooling: mean, id: probe}"


def folder_of(tmp_path, rows):
    tiny_model("vit").save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def halves(count=120):
    """Images that are brighter above or below."""
    draw = random.Random(3)
    for _ in range(count):
        label = draw.choice(["above", "below"])
        bright = range(4) if label == "above" else range(4, 8)
        rows = [[min(16, draw.randrange(9) + (6 if y in bright else 0)) for _ in range(8)] for y in range(8)]
        yield {"image": rows, "label": label}


def certified(tmp_path, monkeypatch, stages):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder_of(tmp_path, halves())
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path, stages=stages))
    return run(tmp_path / "recipe.yaml", output=tmp_path / "run", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    ["[{name: head}, {name: lora, rank: 4}]", "[{name: head}, {name: spottune, rank: 4, hidden: 8}]", "{name: head}"],
)
def test_an_image_encoder_learns_labels_and_says_what_was_not_measured(tmp_path, monkeypatch, method):
    stage = STAGE.format(method=method, scope="scope: task", epochs=12)
    certificate = certified(tmp_path, monkeypatch, stage)
    assert certificate["target"]["base"] == 0.0, "an encoder without a head gives no answer"
    assert certificate["target"]["adapted"] > 0.8
    assert certificate["verdict"] == "UNDECIDED", "no general ability of an image encoder is measured"
    assert certificate["retention"]["tasks"] == []


@pytest.mark.slow
def test_lp_ft_trains_the_head_first_and_then_head_and_all_weights(tmp_path, monkeypatch):
    """Stage 2 begins with the head of stage 1, changes the body, and its head answers on the new body."""
    first = STAGE.format(method="{name: head, pooling: mean}", scope="id: probe", epochs=4)
    second = STAGE.format(
        method="[{name: head, pooling: mean, start_from: probe}, {name: full}]", scope="id: both", epochs=3
    ).replace("1.0e-2", "1.0e-3")
    certificate = certified(tmp_path, monkeypatch, first + second)
    assert certificate["target"]["adapted"] > 0.8
    assert certificate["deployment"] == "always_on"
    kept = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert [ref["name"] for ref in kept["adapters"]] == ["probe", "both"]
    tuned = load(tmp_path / "run" / kept["base"], dtype="float32", device="cpu").model
    before = load(tmp_path / "model", dtype="float32", device="cpu").model
    moved = [not torch.equal(a, b) for a, b in zip(tuned.parameters(), before.parameters(), strict=True)]
    assert sum(moved) > len(moved) // 2
    assert (tmp_path / "run" / kept["adapters"][1]["path"] / "adapter.json").exists()
