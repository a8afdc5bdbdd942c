"""`plan` lists every method with its forecast, recommends one that fits, and refuses with the arithmetic."""

from __future__ import annotations

import json

import pytest
import torch

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.data.encode import Encoded
from keeptune.methods import Method
from keeptune.models import device, load, precision
from keeptune.models.load import look
from keeptune.planning.memory import Base
from keeptune.recipes import plan as planner
from keeptune.recipes import proof_work
from keeptune.recipes.jobs import Batches, job_of
from keeptune.recipes.measuring import suite_of
from keeptune.recipes.recipe import load_recipe
from keeptune.stages._plan import Plan
from tests.models.test_load import save_tokenizer
from tests.tiny_models import tiny_model

RATES = {"bfloat16": 1e11, "float32": 0.5e11}
SMALL = ["data.task.train=20", "proof.items=50"]


@pytest.fixture
def no_weights(monkeypatch):
    """Reading a weight is a failure; the machine's rate is given."""

    def refuse(*args, **kwargs):
        raise AssertionError("a plan reads no weights")

    monkeypatch.setattr(load, "_model", refuse)
    monkeypatch.setattr(planner, "product_rate", lambda device, dtype: RATES[dtype])


@pytest.mark.slow
def test_every_method_is_planned_or_refused_with_its_reason(no_weights):
    result = planner.plan_recipe("lora", SMALL)
    named = {row["name"].removesuffix(" (nf4)") for row in result["methods"]} | {
        row["name"] for row in result["refused"]
    }
    assert named == set(Method.names())
    reasons = {row["name"]: row["reason"] for row in result["refused"]}
    assert "Add `type`: PEFT's name of it, such as vera" in reasons["peft"]
    assert "no biases" in reasons["bitfit"]
    assert "`add_missing: true`" in reasons["bitfit"]
    assert result["recommended"]["name"] == "lora"
    assert result["recipe"]["train"]["trainable_parameters"] == next(
        row["trainable_parameters"] for row in result["methods"] if row["name"] == "lora"
    )
    assert set(result["power"]["items"].values()) == {50}
    assert "recommended  lora" in result["text"]


def test_what_rows_begin_with_is_counted_once_where_the_method_shares_it():
    instruction = tuple(range(3, 43))
    rows = [Encoded(f"r{n}", "task", (*instruction, 50 + n, 60, 61), (False,) * 42 + (True,)) for n in range(8)]
    plan = Plan({"task": rows}, [[0, 1, 2, 3], [4, 5, 6, 7]], seed=0)
    batches = Batches.of(plan, [], None)
    assert batches.shared == (40 + 4 * 3) / (4 * 43)
    base = Base(ModelShape.from_config(look("pocket")[0]), 4, False)
    stage = load_recipe("lora").stages[0]
    tokens = {
        name: job_of(stage, base, batches, [Method.find(name)(**settings)]).work.tokens
        for name, settings in (("lora", {}), ("prefix", {"length": 3}), ("full", {}))
    }
    assert tokens == {"lora": 2 * (40 + 4 * 3), "prefix": 8 * 43, "full": 2 * (40 + 4 * 3)}


@pytest.mark.parametrize(("units", "taken"), [(True, "bfloat16"), (False, "float32")])
def test_time_and_memory_are_of_the_dtype_that_auto_comes_to(no_weights, monkeypatch, units, taken):
    monkeypatch.setattr(precision, "has_units", lambda device: units)
    monkeypatch.setattr(device, "find_device", lambda name=None: torch.device("cpu"))
    own, other = (
        planner.plan_recipe("lora", [*SMALL, f"model.dtype={dtype}"])
        for dtype in ("auto", {"bfloat16": "float32", "float32": "bfloat16"}[taken])
    )
    assert own["dtype"]["dtype"] == taken
    assert f"dtype        {taken}: this processor" in own["text"]
    assert own["machine"]["rate"] == RATES[taken]
    for part in ("recipe", "proof"):
        mine, its = (one[part]["train"] if part == "recipe" else one[part] for one in (own, other))
        assert mine["minutes"] / its["minutes"] == pytest.approx(0.5 if units else 2)
    shape = ModelShape.from_config(look("pocket")[0])
    size = 2 if units else 4
    assert own["recipe"]["train"]["memory"]["weights"] == size * shape.parameters()
    assert (own["recipe"]["train"]["memory"]["peak"] > other["recipe"]["train"]["memory"]["peak"]) is not units


def test_a_plan_says_what_bfloat16_costs_where_nothing_multiplies_it(no_weights, monkeypatch):
    monkeypatch.setattr(precision, "has_units", lambda device: False)
    text = planner.plan_recipe("lora", [*SMALL, "model.dtype=bfloat16"])["text"]
    assert text.count("many times as long as in float32. `dtype: auto` takes float32 here") == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_rate_is_that_of_products_in_the_dtype(monkeypatch, dtype):
    multiplied, product = [], torch.Tensor.__matmul__

    def seen(left, right):
        multiplied.append((left.dtype, right.dtype))
        return product(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", seen)
    assert planner.product_rate("cpu", dtype, size=64, seconds=0.01) > 0
    assert set(multiplied) == {(getattr(torch, dtype), getattr(torch, dtype))}


def test_the_kl_reference_of_full_tuning_is_its_states_and_its_head_and_no_second_copy(no_weights):
    without, with_kl = (
        planner.plan_recipe("sft", [*SMALL, *extra])["recipe"]["train"]["memory"]
        for extra in ([], ["stages[0].losses=[next_token, kl_to_base]"])
    )
    assert without["reference"] == 0
    assert 0 < with_kl["reference"] < without["weights"]


def test_what_does_not_fit_is_refused_and_says_what_would_save_memory(no_weights, monkeypatch):
    monkeypatch.setattr(planner, "available_memory", lambda: 1000)
    monkeypatch.setattr(planner, "resident_bytes", lambda: 1000)
    with pytest.raises(PlanError) as caught:
        planner.plan_recipe("lora", SMALL)
    assert caught.value.code == "E-PLAN-MEMORY"
    assert "saves" in caught.value.fix


def test_layers_are_computed_twice_where_memory_is_short_unless_the_recipe_says_how_many(no_weights, monkeypatch):
    whole = planner.plan_recipe("lora", SMALL)["recipe"]["train"]
    monkeypatch.setattr(planner, "resident_bytes", lambda: 0)
    monkeypatch.setattr(planner, "available_memory", lambda: whole["memory"]["resident"])
    result = planner.plan_recipe("lora", SMALL)
    layers, of = result["recipe"]["train"]["layers_twice"]
    assert 0 < layers < of
    assert f"{layers} of {of} layers computed twice" in result["text"]
    settled = planner.plan_recipe("lora", [*SMALL, "stages[0].memory.gradient_checkpointing=false"])
    assert settled["recipe"]["train"]["layers_twice"] == [0, of]


def test_a_recipe_that_does_not_fit_is_not_recommended(no_weights, monkeypatch):
    narrow = [*SMALL, "model.dtype=bfloat16"]
    states = {row["name"]: row["memory"]["state"] for row in planner.plan_recipe("sft", narrow)["methods"]}
    monkeypatch.setattr(planner, "resident_bytes", lambda: 0)
    monkeypatch.setattr(planner, "available_memory", lambda: states["full"])
    result = planner.plan_recipe("sft", narrow)
    assert not result["fits"]
    assert result["recommended"]["name"] == "lora"
    assert "does not fit" in result["text"]


KINDS = """
name: kinds
seed: 7
model: {{name: {folder}/model, dtype: float32}}
data:
  task: {source}
split: {{dev: 0.1, test: 0.3}}
stages:
  - name: train
    method: {method}
    scope: task
    data: task
    losses: [{loss}]
    epochs: 1
    batch_tokens: 512
proof: {{target: {{data: task, metric: label_accuracy}}, suite: embedded, items: 50}}
"""


@pytest.mark.parametrize(
    ("family", "method", "loss"),
    [
        ("bert", "{name: head}", "label"),
        ("roberta", "[{name: head}, {name: lora, rank: 2}]", "label"),
        ("t5", "{name: lora, rank: 2}", "next_token"),
        ("llama", "{name: head}", "label"),
        ("vit", "[{name: head}, {name: lora, rank: 2}]", "label"),
    ],
)
def test_a_plan_encodes_with_the_models_own_kind(tmp_path, no_weights, family, method, loss):
    """The rows are those of a run: a request in its frame, request and answer, or an image's patches."""
    tiny_model(family).save_pretrained(tmp_path / "model")
    source = "{format: prompt_completion, path: rows.jsonl}"
    rows = [{"prompt": f"w{5 + n} w7", "completion": ["w20", "w21"][n % 2]} for n in range(40)]
    if family == "vit":
        source = "{format: images, path: rows.jsonl, top: 16}"
        rows = [{"image": [[n % 16] * 8] * 8, "label": ["a", "b"][n % 2]} for n in range(40)]
    else:
        save_tokenizer(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = KINDS.format(folder=tmp_path, source=source, method=method, loss=loss)
    (tmp_path / "recipe.yaml").write_text(text)
    result = planner.plan_recipe(str(tmp_path / "recipe.yaml"), [])
    planned = {row["name"].removesuffix(" (nf4)") for row in result["methods"]}
    assert {"head", "lora", "full"} <= planned
    assert result["recipe"]["train"]["minutes"] > 0
    assert (result["proof"]["read"] > 0) == (family != "vit")
    assert (result["proof"]["written"] > 0) == (family in ("t5", "llama"))
    asked = result["power"] and {name.split(" of ")[0] for name in result["power"]["items"]}
    assert asked == {"bert": {"halves"}, "roberta": {"halves"}, "vit": None}.get(family, asked)
    assert family in ("bert", "roberta", "vit") or "cloze" in asked


@pytest.mark.slow
def test_the_tokens_of_a_proof_are_counted_on_a_sample_as_they_are_in_full(monkeypatch):
    """The mean of 40 items a task stands for all: within a tenth of a plain count over every item."""
    recipe = load_recipe("lora", ["proof.items=300"])
    suite = suite_of("embedded", None, 300)
    tokenizer = load.look("pocket")[1]
    assert recipe.proof is not None
    sampled = proof_work.proof_reading(recipe.proof, suite, (), tokenizer, "decoder", head=False)
    monkeypatch.setattr(proof_work, "SAMPLE", 10**9)
    whole = proof_work.proof_reading(recipe.proof, suite, (), tokenizer, "decoder", head=False)
    assert sampled.read == pytest.approx(whole.read, rel=0.1)
    assert sampled.scored == pytest.approx(whole.scored, rel=0.1)
    assert sampled.written == whole.written > 0


def test_what_the_minutes_of_a_proof_leave_out_is_named(tmp_path):
    suite = tmp_path / "own.yaml"
    suite.write_text(
        "tasks: [{name: far, file: far_away, kind: harness}, {name: known, file: near, kind: harness, items: 900}]\n"
    )
    told = planner.plan_recipe("lora", [*SMALL, f"proof.suite={suite}", "proof.diagnose=true"])
    assert "not counted: far, which the harness fetches; known" in told["text"]
    assert "the diagnosis" in told["text"]
    assert told["power"]["items"] == {"known": 900}
    assert told["power"]["unknown"] == ["far"]
    assert "without these, whose items the harness tells when it is asked: far" in told["text"]
    assert "one that lost twice every margin gets its FAIL" in told["text"]
