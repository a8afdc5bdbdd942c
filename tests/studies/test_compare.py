"""A comparison on a random model: arms with equal tokens, figures, a page; what is done is not done again."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from keeptune.core.errors import RecipeError
from keeptune.core.score import Item, Score
from keeptune.recipes.measuring import measure
from keeptune.recipes.recipe import load_recipe
from keeptune.report.lineup_page import headline
from keeptune.studies._cells import grid_of, named
from keeptune.studies._lineup import arm_recipe, token_budget
from keeptune.studies._session import run_study
from tests.recipes.test_shelf import suite  # noqa: F401 (a fixture)
from tests.recipes.test_shelf_steps import model, small  # noqa: F401 (a fixture)
from tests.reliability.kill_loop import in_child

FEW = ["recipes=[sft, lora]", "rates=[0.5, 2]", "tokens=512"]


@pytest.fixture
def settings(model, suite, monkeypatch):  # noqa: F811
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(model.parent / "cache"))
    return [*small("sft", model), f"proof.suite={suite}"]


def test_the_grid_is_run_once_and_read_as_frontiers(settings, tmp_path, monkeypatch):
    first = run_study("compare", "sft", tmp_path / "study", settings, FEW, quiet=True)
    assert [(cell["recipe"], cell["rate"]) for cell in first["cells"]] == [
        ("sft", 0.5), ("sft", 2), ("lora", 0.5), ("lora", 2),
    ]  # fmt: skip
    for cell in first["cells"]:
        assert cell["target"]["low"] <= cell["target"]["value"] <= cell["target"]["high"]
        assert cell["kl_to_base"] > 0
    assert {row["recipe"] for row in first["methods"]} == {"sft", "lora"}
    assert first["hours"] >= 0
    page = (tmp_path / "study" / "compare.html").read_text()
    assert page.count("<svg") == 1
    assert "512 tokens a run" in page
    json.dumps(first, allow_nan=False)

    monkeypatch.setattr("keeptune.studies._bench.trained", never)
    moved = (tmp_path / "study").rename(tmp_path / "elsewhere")
    second = run_study("compare", "sft", moved, settings, FEW, quiet=True)
    assert second["cells"] == first["cells"]
    assert second["methods"] == first["methods"]


def test_a_study_that_is_killed_makes_only_what_was_not_done_and_its_summary_is_whole(settings, tmp_path, monkeypatch):
    """SIGKILL as the second of two runs begins: the first is committed, and `study.json` is not there yet."""
    from keeptune.studies import _bench

    two, begun, real = ["recipes=[sft]", "rates=[0.5, 2]", "tokens=512"], [], _bench.trained

    def killed_at_the_second(*asked):
        begun.append(1)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*asked)

    def study():
        return run_study("compare", "sft", tmp_path / "study", settings, two, quiet=True)

    with monkeypatch.context() as dying:
        dying.setattr(_bench, "trained", killed_at_the_second)
        assert os.waitpid(in_child(study), 0)[1] == signal.SIGKILL
    assert not (tmp_path / "study" / "study.json").exists()
    monkeypatch.setattr(_bench, "trained", lambda *asked: begun.append(1) or real(*asked))
    monkeypatch.setattr(_bench, "measure", lambda label, *asked: measured.append(label) or measure(label, *asked))
    measured = []
    result = study()
    assert len(begun) == 1
    assert measured == ["adapted"]
    assert [(cell["recipe"], cell["rate"]) for cell in result["cells"]] == [("sft", 0.5), ("sft", 2)]
    assert json.loads((tmp_path / "study" / "study.json").read_text())["cells"] == result["cells"]


def never(*_, **__):
    raise AssertionError("what is done is not done again")


def test_a_grid_goes_on_in_another_checkout_where_nothing_else_is(model, suite, tmp_path, monkeypatch):  # noqa: F811
    """The folder moves, and so do model, rows and suite; the cache of scores is gone. Then the suite grows."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)

    def setting(name, of):
        home = tmp_path / name
        monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        own = f"data.task={{format: prompt_completion, path: {home / 'rows.jsonl'}}}"
        asked = [
            "split={dev: 0, test: 0.3}",
            f"proof.suite={home / 'suite' / 'suite.yaml'}",
            f"model.name={home / 'model'}",
        ]
        return ["recipes=[sft, lora]", "rates=[1]", f"tokens={of}"], [*small("sft", model)[1:2], own, *asked]

    first = tmp_path / "here"
    shutil.copytree(model, first / "model")
    shutil.copytree(suite.parent, first / "suite")
    rows = [{"prompt": f"Name the sign of {n}.", "completion": "plus" if n % 2 else "minus"} for n in range(40)]
    (first / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    choices, settings = setting("here", 512)
    begun = run_study("compare", "sft", first / "study", settings, choices, quiet=True)

    shutil.rmtree(first / "cache")
    first.rename(tmp_path / "there")
    choices, settings = setting("there", 512)
    with monkeypatch.context() as patch:
        for name in ("trained", "measure"):
            patch.setattr(f"keeptune.studies._bench.{name}", never)
        again = run_study("compare", "sft", tmp_path / "there" / "study", settings, choices, quiet=True)
        assert again["cells"] == begun["cells"]
        other = tmp_path / "there" / "suite" / "requests.txt"
        other.write_text(other.read_text() + "Sing.\n")
        with pytest.raises(AssertionError, match="not done again"):
            run_study("compare", "sft", tmp_path / "there" / "study", settings, choices, quiet=True)


def test_a_loss_is_read_as_what_is_saved_of_the_bases():
    """Bits of two texts: 300 and 100 of the base, 150 and 50 after training: half is saved, whatever their bytes."""

    def scores(bits):
        items = tuple(Item(name, "task", one, size=80.0) for name, one in zip("ab", bits, strict=True))
        loss = Score("task", "target", "bits_per_byte", sum(bits) / 160, False, 2, 0.1, items=items)
        right = Score("sums", "accuracy", "accuracy", 1.0, True, 2, 0.1, items=(Item("a", "sums", 1.0),))
        return [loss, right]

    grid = grid_of({"sft": [0]}, scores([300.0, 100.0]), [[scores([150.0, 50.0])]])
    assert grid.start_B[0] == pytest.approx(0)
    saved = grid.cell(0)["target"]
    assert (saved.value, saved.low, saved.high) == pytest.approx((0.5, 0.5, 0.5)), "on the same texts as the base"
    assert grid.hypervolume("sft").value == pytest.approx(0.5)
    assert named(scores([1.0, 1.0])[0]) == "the base's bits per byte that are saved"


def test_arms_draw_the_same_tokens_and_only_the_last_rate_moves():
    study = load_recipe("sft")
    for name in ("sft", "lora", "promot", "promot_joint", "dmt", "text_replay"):
        own = load_recipe(name)
        arm = arm_recipe(study, name, 100_000, 3.0, 11)
        stages = [stage for stage in arm.stages if stage.name == "train"]
        drawn = sum(stage.steps * stage.batch_tokens for stage in stages)
        assert abs(drawn - 100_000) <= 2048 * len(stages)
        before = [stage.optimizer.lr for stage in own.stages if stage.name == "train"]
        assert [stage.optimizer.lr for stage in stages] == pytest.approx([*before[:-1], 3 * before[-1]])
        assert arm.seed == 11
        assert arm.model == study.model
    assert token_budget(study, 1000) == study.stages[0].epochs * 1000


def test_a_prompt_forgets_labels_of_another_task_and_a_missing_source_is_named(tmp_path):
    smaller = load_recipe("sft", ["data.task.train=9"])
    assert arm_recipe(smaller, "promot", 10_000, 1.0, 7).stages[0].method.init == "labels"
    study = load_recipe("sft", ["data.task={format: prompt_completion, path: other.csv}"])
    assert arm_recipe(study, "promot", 10_000, 1.0, 7).stages[0].method.init == "vocabulary"
    data, stages = "{notes: {format: plain_text, path: notes.txt}}", "[{name: train, method: full, data: notes}]"
    (tmp_path / "other.yaml").write_text(f"name: other\ndata: {data}\nstages: {stages}\nproof: null\n")
    with pytest.raises(RecipeError) as caught:
        arm_recipe(study, str(tmp_path / "other.yaml"), 10_000, 1.0, 7)
    assert caught.value.code == "E-STUDY-SOURCE"


def test_the_page_names_a_winner_only_where_the_intervals_part():
    def row(name, value, low, high):
        return {"recipe": name, "hypervolume": {"value": value, "low": low, "high": high}}

    clear = [row("one", 0.4, 0.35, 0.45), row("two", 0.6, 0.55, 0.65)]
    assert headline(clear) == "two covers most of the plane of target and retention"
    assert headline([*clear, row("three", 0.58, 0.5, 0.66)]).endswith("not clearly before three")
