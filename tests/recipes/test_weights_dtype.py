"""`dtype: auto` is decided once, where a run begins; wherever it goes on it keeps that, and it says which and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from keeptune.core.errors import Interrupted, RecipeError
from keeptune.core.machine import dtype_finding
from keeptune.core.run import Run
from keeptune.models import device, precision
from keeptune.recipes import seeds
from keeptune.recipes.check import check_recipe
from keeptune.recipes.recipe import FOLDER, Model, Recipe, load_recipe
from keeptune.recipes.run import run_recipe
from keeptune.recipes.weights_dtype import begun_in, dtype_of, with_dtype
from keeptune.studies._session import run_study
from keeptune.studies.compare import Compare
from tests.recipes.test_runs import RECIPE, work  # noqa: F401 (work is a fixture)
from tests.recipes.test_shelf_steps import model  # noqa: F401 (a fixture)

SECOND_STAGE = """\
  - name: train
    id: again
    method: {name: lora, rank: 4}
    data: task
    steps: 2
    batch_tokens: 256
proof:"""
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def place(work, model, monkeypatch):  # noqa: F811
    """A folder with a recipe of one stage, on two random layers."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    (work / "recipe.yaml").write_text(RECIPE.replace("{name: pocket}", f"{{name: {model}}}"))
    return work


@pytest.fixture
def machine(monkeypatch):
    """Call it with what the machine has; whatever it is, the arithmetic is this one's."""

    def is_one(*, units: bool, on: torch.device = CPU) -> None:
        monkeypatch.setattr(precision, "has_units", lambda device: units)
        monkeypatch.setattr(device, "find_device", lambda name=None: on)

    return is_one


def recipe_of(dtype: str) -> Recipe:
    return load_recipe("lora", [f"model.dtype={dtype}"])


@pytest.mark.parametrize(("on", "here"), [(CPU, "this processor"), (GPU, "this GPU")])
def test_auto_is_decided_by_the_device_and_the_reason_is_told(machine, on, here):
    machine(units=True, on=on)
    recipe, taken = with_dtype(recipe_of("auto"))
    assert recipe.model.dtype == "bfloat16"
    assert str(taken) == f"bfloat16: {here} has units for it"
    machine(units=False, on=on)
    recipe, taken = with_dtype(recipe_of("auto"))
    assert recipe.model.dtype == "float32"
    assert str(taken) == f"float32: {here} has no units for bfloat16"


@pytest.mark.parametrize(("on", "here"), [(CPU, "this processor"), (GPU, "this GPU")])
def test_bfloat16_without_units_is_taken_when_named_and_its_price_and_remedy_are_told(machine, on, here):
    machine(units=False, on=on)
    recipe, taken = with_dtype(recipe_of("bfloat16"))
    assert recipe.model.dtype == "bfloat16"
    assert f"{here} has no units for it, and its products take many times as long as in float32" in taken.why
    assert "dtype: auto" in taken.remedy


@pytest.mark.parametrize(("dtype", "units"), [("bfloat16", True), ("float32", True), ("float32", False)])
def test_a_dtype_that_costs_nothing_more_is_taken_without_advice(machine, dtype, units):
    machine(units=units)
    assert str(with_dtype(recipe_of(dtype))[1]) == f"{dtype}: the recipe says so"


def test_a_new_recipe_and_every_one_that_comes_with_keeptune_leave_it_to_the_machine():
    assert Model().dtype == "auto"
    names = [path.stem for path in FOLDER.glob("*.yaml") if path.stem != "demo"]
    assert len(names) > 50
    assert {load_recipe(name).model.dtype for name in names} == {"auto"}


def stop_after_the_first_stage(monkeypatch) -> None:
    commit = Run.commit_stage

    def stopping(run, index, *rest):
        commit(run, index, *rest)
        raise Interrupted("stopped", code="E-RUN-INTERRUPTED", fix="")

    monkeypatch.setattr(Run, "commit_stage", stopping)
    with pytest.raises(Interrupted):
        run_recipe("recipe.yaml", Path("run"), [], skip_base=True, quiet=True)
    monkeypatch.setattr(Run, "commit_stage", commit)


@pytest.mark.parametrize("begins_with_units", [True, False])
def test_a_run_goes_on_in_its_dtype_on_another_kind_of_machine(place, machine, monkeypatch, capsys, begins_with_units):
    recipe = place / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("proof:", SECOND_STAGE))
    own, other = ("bfloat16", "float32") if begins_with_units else ("float32", "bfloat16")
    machine(units=begins_with_units)
    run_recipe("recipe.yaml", place / "whole", [], skip_base=True, quiet=True)
    stop_after_the_first_stage(monkeypatch)
    machine(units=not begins_with_units)
    capsys.readouterr()
    run_recipe("recipe.yaml", place / "run", [], skip_base=True)
    told = capsys.readouterr().err
    assert f"dtype {own}: as this run was begun" in told
    assert ("many times as long" in told) is begins_with_units
    assert "train: done before, nothing to do" in told
    assert json.loads((place / "run" / "manifest.json").read_text())["dtype"] == own
    assert json.loads((place / "run" / "checkpoint.json").read_text())["dtype"] == own
    for stage in ("0-train", "1-again"):
        (left,), (right,) = (
            sorted((place / name / "stages" / stage).glob("adapter/*.safetensors")) for name in ("whole", "run")
        )
        one, two = load_file(left), load_file(right)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(RecipeError) as caught:
        run_recipe("recipe.yaml", place / "run", [f"model.dtype={other}"], skip_base=True, quiet=True)
    assert caught.value.code == "E-RESUME-DIFFERENT"
    assert f"model.dtype: {own} -> {other}" in caught.value.what


def test_all_seeds_of_a_run_are_in_one_dtype_although_the_last_is_trained_elsewhere(place, machine, monkeypatch):
    machine(units=True)
    two, execute = ["proof.seeds=2"], seeds.execute

    def only_the_first(recipe, folder, *rest, **more):
        if folder.name != "3":
            raise Interrupted("stopped", code="E-RUN-INTERRUPTED", fix="")
        return execute(recipe, folder, *rest, **more)

    monkeypatch.setattr(seeds, "execute", only_the_first)
    with pytest.raises(Interrupted):
        run_recipe("recipe.yaml", place / "run", two, skip_base=True, quiet=True)
    monkeypatch.setattr(seeds, "execute", execute)
    machine(units=False)
    run_recipe("recipe.yaml", place / "run", two, skip_base=True, quiet=True)
    manifests = [json.loads((place / "run" / "seeds" / seed / "manifest.json").read_text()) for seed in ("3", "4")]
    assert [one["dtype"] for one in manifests] == ["bfloat16", "bfloat16"]


def test_a_run_that_made_nothing_yet_is_decided_anew(tmp_path, machine):
    (tmp_path / "manifest.json").write_text('{"dtype": "bfloat16"}')
    assert begun_in(tmp_path) is None
    (tmp_path / "stages").mkdir()
    assert begun_in(tmp_path) == "bfloat16"
    machine(units=False)
    assert with_dtype(recipe_of("auto"), tmp_path)[0].model.dtype == "bfloat16"
    assert with_dtype(recipe_of("float32"), tmp_path)[0].model.dtype == "float32"
    (tmp_path / "manifest.json").write_text("{broken")
    assert begun_in(tmp_path) is None


def test_the_runs_of_a_study_decide_for_it(tmp_path):
    arm = tmp_path / "arms" / "lora-x1-7"
    (arm / "stages").mkdir(parents=True)
    (arm / "manifest.json").write_text('{"dtype": "float32"}')
    assert begun_in(tmp_path) == "float32"


def test_where_there_are_units_auto_stores_and_finds_what_bfloat16_did(place, machine):
    machine(units=True)
    run_recipe("recipe.yaml", place / "named", ["model.dtype=bfloat16"], quiet=True)
    cached = {path: path.stat().st_mtime_ns for path in (place / "cache").rglob("*") if path.is_file()}
    run_recipe("recipe.yaml", place / "auto", [], quiet=True)
    assert {path: path.stat().st_mtime_ns for path in (place / "cache").rglob("*") if path.is_file()} == cached
    for name in ("exactness.json", "recipe.yaml", "checkpoint.json"):
        assert (place / "named" / name).read_bytes() == (place / "auto" / name).read_bytes()
    done = [json.loads((place / run / "stages/0-train/done/manifest.json").read_text()) for run in ("named", "auto")]
    assert done[0]["info"]["digest"] == done[1]["info"]["digest"]
    metrics = (place / "named" / "metrics.jsonl").read_bytes()
    run_recipe("recipe.yaml", place / "named", [], quiet=True)
    assert (place / "named" / "metrics.jsonl").read_bytes() == metrics


def test_a_run_says_its_dtype_first_and_its_certificate_says_why(place, machine, capsys):
    machine(units=False)
    result = run_recipe("recipe.yaml", place / "run", [])
    reason = "this processor has no units for bfloat16"
    assert capsys.readouterr().err.startswith(f"dtype float32: {reason}\n")
    assert result["certificate"]["provenance"]["dtype"] == "float32"
    assert result["certificate"]["provenance"]["dtype_reason"] == reason
    events = [json.loads(line) for line in (place / "run" / "events.jsonl").read_text().splitlines()]
    (event,) = [event for event in events if event["kind"] == "dtype"]
    assert (event["dtype"], event["dtype_reason"]) == ("float32", reason)
    page = (place / "run" / "certificate.html").read_text()
    assert f"float32: {reason}" in page


def test_check_warns_of_a_slow_dtype_once_and_of_no_other(place, machine):
    machine(units=False)
    slow, fault = check_recipe("recipe.yaml", ["model.dtype=bfloat16"], html=place / "page.html", quiet=True)
    assert fault is None
    assert slow["text"].count("many times as long as in float32") == 1
    assert "many times as long" in (place / "page.html").read_text()
    assert check_recipe("recipe.yaml", [], quiet=True)[0]["notes"] == []


def test_a_study_goes_on_in_the_dtype_of_its_arms(tmp_path, machine, monkeypatch):
    arm = tmp_path / "study" / "arms" / "lora-x1-7"
    (arm / "stages").mkdir(parents=True)
    (arm / "manifest.json").write_text('{"dtype": "bfloat16"}')
    machine(units=False)
    monkeypatch.setattr(Compare, "conduct", lambda study, given: {"dtype": given.recipe.model.dtype})
    assert run_study("compare", "lora", tmp_path / "study", quiet=True)["dtype"] == "bfloat16"
    assert run_study("compare", "lora", tmp_path / "new", quiet=True)["dtype"] == "float32"


def test_doctor_says_what_auto_comes_to(machine):
    machine(units=False)
    found = dtype_finding(str(dtype_of(Model()))).found
    assert found == "auto takes float32: this processor has no units for bfloat16"
