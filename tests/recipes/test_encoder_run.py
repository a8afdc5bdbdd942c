"""A recipe on an encoder, from its file to its certificate: a head learns labels, the encoder stays the base's."""

from __future__ import annotations

import json
import random

import pytest

from keeptune.recipes.run import run
from tests.methods.test_templates import folder_of

CLOZE = "{name: p_tuning, template: '{soft:3} {text} {soft:3} {mask}', verbaliser: {low: w20, high: w21}}"

RECIPE = """
name: tiny-encoder
seed: 7
model: {{name: {model}, dtype: float32}}
data:
  task: {{format: prompt_completion, path: {data}, prompt: text, completion: label}}
split: {{dev: 0.1, test: 0.3}}
stages:
  - name: train
    method: {method}
    scope: task
    data: task
    losses: [label]
    optimizer: {{name: adamw, lr: 3.0e-2, schedule: constant}}
    epochs: 12
    batch_tokens: 24
proof: {{target: {{data: task, metric: label_accuracy}}, suite: embedded, items: 50}}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"),
    [("bert", "head"), ("bert", CLOZE), ("roberta", CLOZE)],
    ids=["bert, head", "bert, template", "roberta, template"],
)
def test_an_encoder_learns_labels_and_ends_in_a_certificate(tmp_path, monkeypatch, family, method):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder_of(tmp_path / "model", family)
    draw = random.Random(3)
    rows = []
    for _ in range(120):
        label = draw.choice(["low", "high"])
        first = draw.choice([5, 6] if label == "low" else [40, 41])
        rows.append({"text": f"w{first} w{first} w{draw.randrange(3, 60)}", "label": label})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(model=tmp_path / "model", data=tmp_path / "rows.jsonl", method=method)
    )
    certificate = run(tmp_path / "recipe.yaml", output=tmp_path / "run", quiet=True)
    target = certificate["target"]
    assert target["base"] == 0.0, "an encoder without a head gives no answer"
    assert target["adapted"] > 0.7
    assert certificate["deployment"] == "routed"
    halves = [*certificate["retention"]["tasks"], *certificate["retention"]["excluded"]]
    assert {one["name"].split(" of ")[0] for one in halves} == {"halves"}
    saved = next((tmp_path / "run").glob("stages/*/adapter/adapter.json"))
    settings = json.loads(saved.read_text())["settings"]
    head = settings["methods"][0] if "methods" in settings else settings
    assert head.get("labels") or sorted(head["verbaliser"]) == ["high", "low"]
