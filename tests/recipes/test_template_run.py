"""A recipe whose template has soft tokens between two texts and before the answer, from its files to its proof."""

from __future__ import annotations

import json
import random

import pytest
from transformers import AutoTokenizer

from keeptune.core.errors import DataError
from keeptune.models.load import load
from keeptune.recipes.run import run_recipe
from tests.methods.test_templates import folder_of
from tests.recipes.test_runs import work  # noqa: F401

TEMPLATE = "{soft:2} {text:premise} {soft:3} {text:hypothesis} Answer: {soft:3}"
RECIPE = """\
name: pairs
seed: 3
model: {{name: {model}}}
data:
  task: {{format: prompt_completion, path: pairs.jsonl, prompt: [premise, hypothesis], completion: label}}
split: {{dev: 0.2, test: 0.3}}
stages:
  - name: train
    method: {{name: p_tuning, template: "{template}"}}
    scope: task
    data: task
    optimizer: {{name: adamw, lr: 1.0e-2}}
    epochs: {epochs}
    batch_tokens: 512
  - {{name: evaluate, evaluations: [{{name: target, data: task, metric: exact_match}}]}}
proof:
  target: {{data: task, metric: label_accuracy}}
  suite: {suite}
"""


def write(folder, rows, **settings):
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(**settings))


def things():
    draw = random.Random(1)
    for index in range(60):
        of, word = draw.choice([("metal", "nail"), ("metal", "pan"), ("wood", "plank"), ("wood", "log")])
        said = draw.choice(["metal", "wood"])
        label = "yes" if said == of else "no"
        yield {"premise": f"A {word} number {index}\nlies there.", "hypothesis": f"It is {said}.", "label": label}


def assert_learned(folder):
    """The mean loss of the last quarter of the steps is below that of the first."""
    seen = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in seen if "loss" in row]
    part = -(-len(losses) // 4)
    assert sum(losses[-part:]) < sum(losses[:part])


def test_a_decoder_learns_pairs_and_ends_in_a_certificate(work):  # noqa: F811
    write(work, things(), model="pocket", template=TEMPLATE, epochs=1, suite="suite.yaml")
    run_recipe("recipe.yaml", work / "run", [], quiet=True)
    certificate = json.loads((work / "run" / "certificate.json").read_text())
    assert certificate["deployment"] == "routed"
    assert certificate["cost"]["trainable_parameters"] > 8 * 64
    saved = next((work / "run").glob("stages/*/adapter/adapter.json"))
    assert json.loads(saved.read_text())["settings"]["template"] == TEMPLATE
    assert_learned(work)


@pytest.mark.slow
def test_a_diagnosis_asks_a_template_of_several_texts_no_request_of_one(work):  # noqa: F811
    write(work, things(), model="pocket", template=TEMPLATE, epochs=1, suite="suite.yaml")
    certificate = run_recipe("recipe.yaml", work / "run", ["proof.diagnose=true"], quiet=True)["certificate"]
    assert certificate["diagnosis"]["prompted_leak"] is None
    assert certificate["diagnosis"]["detach"] is True
    assert certificate["diagnosis"]["in_context"]


def test_rows_whose_texts_cannot_be_told_apart_are_refused_before_anything_is_computed(work):  # noqa: F811
    model = load("pocket", dtype="float32", device="cpu")
    model.model.save_pretrained(work / "base")
    source = "{{ message['content'] | upper }}"
    model.tokenizer.chat_template = "{% for message in messages %}" + source + "{{ eos_token }}{% endfor %}"
    model.tokenizer.save_pretrained(work / "base")
    write(work, things(), model="base", template=TEMPLATE, epochs=1, suite="suite.yaml")
    with pytest.raises(DataError) as caught:
        run_recipe("recipe.yaml", work / "run", [], quiet=True)
    assert caught.value.code == "E-ROWS-TEMPLATE"
    assert caught.value.where == {"key": "stages[0].method"}
    assert caught.value.fix


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_learns_pairs_and_ends_in_a_certificate(work, family):  # noqa: F811
    tokenizer = AutoTokenizer.from_pretrained(folder_of(work / "base", family))
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(work / "base")
    draw, rows = random.Random(3), []
    for _ in range(200):
        a, b = (draw.choice([5, 40]) for _ in range(2))
        first, second = (f"w{number} w{draw.randrange(3, 50)}" for number in (a, b))
        rows.append({"premise": first, "hypothesis": second, "label": "w20" if b == 5 else "w21"})
    template = "{soft:2} {text:premise} {soft:3} {text:hypothesis} w9 {soft:3}"
    write(work, rows, model="base", template=template, epochs=6, suite="suite.yaml")
    certificate = run_recipe("recipe.yaml", work / "run", ["model.dtype=float32"], quiet=True)["certificate"]
    assert certificate["deployment"] == "routed"
    assert_learned(work)
