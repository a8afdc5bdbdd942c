"""A recipe from end to end on the embedded model: measured, trained, proven; a second run does nothing."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from keeptune.core.errors import DataError, MachineError, RecipeError
from keeptune.core.items import read_scores
from keeptune.data.formats.generated import Generated
from keeptune.models.load import load
from keeptune.recipes import self_text
from keeptune.recipes.proof import prove_pair
from keeptune.recipes.recipe import FOLDER, load_recipe
from keeptune.recipes.run import run_recipe
from keeptune.recipes.side_by_side import run_side_by_side

RECIPE = """\
name: tiny
seed: 3
model: {name: pocket}
data:
  task: {format: prompt_completion, path: task.jsonl, prompt: text, completion: label}
split: {dev: 0.2, test: 0.3}
stages:
  - name: train
    method: {name: lora, rank: 4}
    data: task
    optimizer: {name: adamw, lr: 1.0e-3}
    steps: 4
    batch_tokens: 256
    saving: {snapshots: 2}
proof:
  target: {data: task, metric: label_accuracy}
  suite: suite.yaml
"""
SUITE = """\
version: "1"
tasks:
  - {name: sums, file: sums.jsonl, kind: choice, chat: true}
  - {name: prose, file: prose.jsonl, kind: corpus}
instructions: requests.txt
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a recipe, its data and a suite; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    things = {"metal": ["nail", "pan", "key", "coin"], "wood": ["plank", "log", "chair", "mast"]}
    rows = [
        {"text": f"A {draw.choice(names)} number {index} lies there.", "label": label}
        for index in range(40)
        for label, names in things.items()
    ]
    sums = [
        {"prompt": f"What is {a} plus {a}?", "options": [str(2 * a), str(2 * a + 1)], "gold": 0} for a in range(1, 25)
    ]
    prose = [
        {"text": f"The {word} was carried over the hill by the old man and left at the gate."} for word in "abcdefgh"
    ]
    for name, table in (("task", rows), ("sums", sums), ("prose", prose)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    (tmp_path / "requests.txt").write_text("Tell me a story.\nName a river.\nWrite a poem.\n")
    (tmp_path / "suite.yaml").write_text(SUITE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_a_run_ends_in_a_certificate_and_a_second_run_changes_nothing(work):
    first = run_recipe("recipe.yaml", work / "run", [], quiet=True)
    certificate = json.loads((work / "run" / "certificate.json").read_text())
    assert certificate["verdict"] == first["verdict"]
    assert certificate["target"]["metric"] == "label_accuracy"
    assert certificate["noise_floor"] is not None
    assert [corpus["name"] for corpus in certificate["retention"]["corpora"]] == ["prose"]
    assert (work / "run" / "certificate.html").read_text().startswith("<!doctype html>")
    data = json.loads((work / "run" / "data.json").read_text())["sources"]["task"]
    encoding = data["encoding"]
    assert encoding["read"] == encoding["kept"] + encoding["dropped"] + encoding["cut"] == data["train"]
    trail = [json.loads(line) for line in (work / "run" / "trail.jsonl").read_text().splitlines()]
    assert [row["step"] for row in trail] == [0, 2, 4]
    weights = (work / "run" / "stages" / "0-train" / "adapter" / "adapter_model.safetensors").read_bytes()
    before = (work / "run" / "items.jsonl.gz").read_bytes()
    run_recipe("recipe.yaml", work / "run", [], quiet=True)
    assert (work / "run" / "items.jsonl.gz").read_bytes() == before
    assert (work / "run" / "stages" / "0-train" / "adapter" / "adapter_model.safetensors").read_bytes() == weights


def test_a_look_at_the_test_rows_between_two_stages_is_told_by_the_certificate(work):
    look = "  - {name: evaluate, evaluations: [{name: target, data: task, metric: label_accuracy}]}\nproof:"
    (work / "recipe.yaml").write_text(RECIPE.replace("proof:", look))
    certificate = run_recipe("recipe.yaml", work / "run", ["proof.lang=zh"], quiet=True)["certificate"]
    assert certificate["selection"] == {"test_seen_in": ["evaluate"]}
    page = (work / "run" / "certificate.html").read_text()
    assert "在这份证明之前已经看过测试集（阶段 evaluate）" in page


@pytest.mark.slow
def test_a_run_that_asks_in_parts_stops_or_uses_all_and_says_which(work):
    certificate = run_recipe("recipe.yaml", work / "run", ["proof.sequential=true"], quiet=True)["certificate"]
    told = certificate["sequential"]
    assert (told["looks"], certificate["level"]) == (5, told["level"])
    assert told["share"] == [0.2, 0.4, 0.6, 0.8, 1.0][told["look"] - 1]
    asked = {part["name"]: part["n"] for part in certificate["retention"]["corpora"]}
    assert asked["prose"] == round(8 * told["share"])


@pytest.mark.slow
def test_a_run_that_is_asked_to_diagnose_tells_the_kind_of_loss(work):
    settings = ["proof.diagnose=true", "proof.lang=zh"]
    certificate = run_recipe("recipe.yaml", work / "run", settings, quiet=True)["certificate"]
    found = certificate["diagnosis"]
    assert found["kinds"]
    assert found["detach"] is True  # LoRA off is the base, bitwise
    assert found["prompted_leak"] is None  # nothing is routed
    assert found["in_context"].keys() == {
        f"{naming}_{shots}_shot" for naming in ("natural", "flipped", "abstract") for shots in (0, 1, 4)
    }
    assert "上下文学习" in (work / "run" / "certificate.html").read_text()


@pytest.mark.slow
def test_a_run_of_a_hybrid_with_a_frozen_part_ends_in_a_certificate(work):
    mix = ["stages.train.method=[{name: prompt, length: 4, frozen: true}, {name: lora, rank: 2}]"]
    run_recipe("recipe.yaml", work / "run", mix, quiet=True)
    certificate = json.loads((work / "run" / "certificate.json").read_text())
    assert certificate["verdict"] in ("PASS", "FAIL", "UNDECIDED")
    settings = json.loads((work / "run" / "stages" / "0-train" / "adapter" / "adapter.json").read_text())["settings"]
    assert [(part["name"], part["frozen"]) for part in settings["methods"]] == [("prompt", True), ("lora", False)]
    stored = load_file(work / "run" / "stages" / "0-train" / "adapter" / "adapter.safetensors")
    lora = sum(tensor.numel() for name, tensor in stored.items() if ".lora_" in name)
    assert certificate["cost"]["trainable_parameters"] == lora


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_tiny_run_needs_the_memory_that_was_forecast_whether_it_measures_its_base_or_has_read_it(work, method):
    """In a process of its own, as a user has it: of so small a run nearly all is the process."""
    for folder in ("measures", "reads"):
        words = ["run", "recipe.yaml", "--output", folder, "--set", f"stages[0].method={method}", "--json"]
        subprocess.run([sys.executable, "-m", "keeptune", *words], check=False, capture_output=True)
        cost = json.loads((work / folder / "certificate.json").read_text())["cost"]
        assert cost["forecast_bytes"] == pytest.approx(cost["training_peak_bytes"], rel=0.1)


def test_other_settings_in_the_same_folder_are_refused_with_the_difference(work):
    run_recipe("recipe.yaml", work / "run", [], quiet=True, skip_base=True)
    recipe = (work / "run" / "recipe.yaml").read_bytes()
    with pytest.raises(RecipeError) as caught:
        run_recipe("recipe.yaml", work / "run", ["seed=4"], quiet=True, skip_base=True)
    assert caught.value.code == "E-RESUME-DIFFERENT"
    assert "seed: 3 -> 4" in str(caught.value)
    # What the folder holds is still the run that was done, by its own recipe.
    assert (work / "run" / "recipe.yaml").read_bytes() == recipe
    assert json.loads((work / "run" / "state.json").read_text())["state"] == "done"


def test_a_proof_without_a_target_needs_no_rows_that_were_held_out(work):
    """The source is called `task`, as that of drift is where nothing else is said, and all of it is trained on."""
    certificate = run_recipe("recipe.yaml", work / "run", ["proof.target=null"], quiet=True)["certificate"]
    assert certificate["target"] is None
    assert {score.task for score in read_scores(work / "run", "adapted") if score.kind == "drift"} == {
        "generic_prompts"
    }


def test_a_model_against_itself_is_unchanged(work):
    lines = (work / "task.jsonl").read_text().splitlines(keepends=True)
    (work / "shifted.jsonl").write_text("".join(line.replace("lies", "stands") for line in lines[:10]))
    result = prove_pair("pocket", "pocket", work / "proof", suite="suite.yaml", target=work / "task.jsonl",
                        metric="label_accuracy", ood=work / "shifted.jsonl")  # fmt: skip
    certificate = result["certificate"]
    assert (certificate["ood"]["n"], certificate["ood"]["delta"], certificate["target"]["n"]) == (10, 0, 80)
    assert certificate["unchanged"] is True
    assert certificate["verdict"] == "PASS"
    assert certificate["target"]["delta"] == 0
    for part in (*certificate["retention"]["tasks"], *certificate["retention"]["corpora"]):
        assert part["delta"] == 0
    assert certificate["target"]["flips_right_to_wrong"] == certificate["target"]["flips_wrong_to_right"] == 0


def test_shifted_rows_need_a_target_and_its_labels(work):
    (work / "shifted.jsonl").write_text(json.dumps({"text": "A chair.", "label": "furniture"}) + "\n")
    settings = {"suite": "suite.yaml", "metric": "label_accuracy", "ood": work / "shifted.jsonl"}
    with pytest.raises(RecipeError, match="--target"):
        prove_pair("pocket", "pocket", work / "proof", **settings)
    with pytest.raises(DataError, match="furniture"):
        prove_pair("pocket", "pocket", work / "proof", target=work / "task.jsonl", **settings)


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "demo"))
def test_every_recipe_is_valid_and_survives_the_round_trip(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert type(recipe).model_validate(recipe.to_dict()) == recipe


def test_all_faults_of_a_recipe_are_told_at_once_with_file_and_line(work):
    text = RECIPE.replace("rank: 4", "rnak: 4").replace("seed: 3", "sead: 3").replace("steps: 4", "steps: -1")
    (work / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yaml")
    told = str(caught.value)
    assert "3 problems" in told
    assert "recipe.yaml line 2" in told
    assert "Did you mean 'rank'?" in told
    assert "Did you mean 'seed'?" in told


@pytest.mark.slow
def test_two_runs_side_by_side_both_end_in_a_certificate(work):
    said: list[str] = []
    (work / "other.yaml").write_text(RECIPE.replace("name: tiny", "name: other").replace("rank: 4", "rank: 2"))
    folders = {"recipe.yaml": work / "one", "other.yaml": work / "two"}
    run_side_by_side({name: [] for name in folders}, folders, at_once=2, say=said.append)
    assert all((folder / "certificate.json").is_file() for folder in folders.values())
    assert any(line.startswith("other.yaml: ") for line in said)


def test_a_run_that_fails_is_named_and_what_it_said_is_passed_on(work):
    said: list[str] = []
    with pytest.raises(MachineError) as caught:
        run_side_by_side(
            {"recipe.yaml": ["stages[0].steps=no"]}, {"recipe.yaml": work / "bad"}, at_once=1, say=said.append
        )
    assert caught.value.code == "E-RUN-ARM"
    assert "recipe.yaml" in caught.value.what
    assert any("steps" in line for line in said)


def test_conversations_that_the_base_makes_up_have_a_request_and_an_answer_without_special_tokens():
    loaded = load("pocket")
    rows = self_text._write(loaded, Generated(rows=8, max_tokens=64, chats=1.0), seed=5)
    assert rows
    assert all(row["request"] and row["answer"] for row in rows)
    special = loaded.tokenizer.all_special_tokens
    assert not any(token in row["request"] + row["answer"] for row in rows for token in special)


@pytest.mark.slow
def test_a_guard_has_questions_of_its_own_and_a_spent_budget_is_told(work):
    settings = ["guard.every=2", "guard.share=0.4", "stages.train.optimizer.lr=0.02"]
    result = run_recipe("recipe.yaml", work / "run", settings, budget=["kl=0.001"], quiet=True)
    metrics = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    looks = [row for row in metrics if "guard_kl_to_base" in row]
    assert [row["step"] for row in looks] == [2]
    assert looks[0].keys() >= {"guard_target", "guard_general", "guard_leak", "guard_bits_per_byte", "guard_forgotten"}
    assert looks[0]["guard_kl_to_base"] > 0.001
    assert "what the stage began with is kept" in result["text"]
    assert result["certificate"]["unchanged"] is True
    run_recipe("recipe.yaml", work / "whole", [], quiet=True)
    asked, whole = (
        {(item.task, item.id) for score in read_scores(work / "run" / name, "base") for item in score.items}
        for name in (".", "../whole")
    )
    assert asked < whole


def test_a_limit_that_nothing_can_be_held_against_is_refused(work):
    with pytest.raises(RecipeError) as caught:
        run_recipe("recipe.yaml", work / "run", ["split.dev=0"], budget=["kl=0.1"], quiet=True)
    assert caught.value.code == "E-GUARD-NOTHING"
