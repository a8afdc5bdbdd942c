"""`auto`: baselines that are what they say, choices that follow from the situation, and a run that goes on."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
from scipy import stats

from keeptune.core.errors import RecipeError
from keeptune.core.example import Example, Message
from keeptune.core.score import Item, Score
from keeptune.pocket.facts import build_facts
from keeptune.recipes import auto as flow
from keeptune.recipes.baselines import Baseline, demonstrations, interval, led_by
from keeptune.recipes.deciding import Situation, decisions, enough
from keeptune.recipes.rates import best_rate
from tests.methods.test_templates import folder_of
from tests.recipes.test_image_run import folder_of as image_folder
from tests.recipes.test_image_run import halves
from tests.recipes.test_masked_run import folder_of as masked_folder
from tests.recipes.test_shelf_steps import model  # noqa: F401 (a fixture)


def row(name: str, answer: str) -> Example:
    return Example(name, (Message("user", f"q {name}"), Message("assistant", answer)))


def test_demonstrations_are_of_different_answers_and_the_same_for_a_seed():
    rows = [row(str(n), "abc"[n % 3]) for n in range(30)]
    chosen = demonstrations(rows, 3, 7)
    assert {one.target for one in chosen} == set("abc")
    assert demonstrations(list(reversed(rows)), 3, 7) == chosen
    assert demonstrations(rows, 3, 8) != chosen
    assert len(demonstrations(rows, 100, 7)) == 30
    assert demonstrations(rows, 0, 7) == []


def test_examples_stand_between_the_system_turn_and_the_question():
    asked = dataclasses.replace(row("x", "a"), messages=(Message("system", "s"), *row("x", "a").messages))
    shown = led_by(row("d", "b").messages, asked)
    assert [turn.content for turn in shown.messages] == ["s", "q d", "b", "q x", "a"]
    assert shown.target == "a"
    assert led_by([], asked) == asked


def score(values: list[float]) -> Score:
    items = tuple(Item(str(n), "task", value) for n, value in enumerate(values))
    mean = sum(values) / len(values)
    error = (sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5
    return Score("task", "target", "exact_match", mean, True, len(values), error, items=items)


def test_the_interval_of_hits_is_wilsons_and_that_of_shares_normal():
    hits = [1.0] * 18 + [0.0] * 42
    z, n, p = float(stats.norm.ppf(0.95)), 60, 0.3
    centre, reach = (p + z * z / 2 / n) / (1 + z * z / n), z * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5
    assert interval(score(hits)) == pytest.approx((centre - reach / (1 + z * z / n), centre + reach / (1 + z * z / n)))
    generator = random.Random(0)
    shares = score([generator.random() for _ in range(50)])
    assert interval(shares) == pytest.approx(
        (shares.value - z * shares.standard_error, shares.value + z * shares.standard_error)
    )


PLAIN = Situation("keep", "labels", 1000, 6_000_000, fits=True)
GOOD, BETTER = Baseline(0, 0.7, 0.65, 0.75, 200), Baseline(4, 0.9, 0.85, 0.95, 200)


def test_where_the_base_reaches_the_goal_nothing_is_trained():
    near = dataclasses.replace(PLAIN, baselines=(GOOD, BETTER), goal=0.8)
    assert enough(near) == BETTER
    assert [one.what for one in decisions(near)] == ["no training"]
    assert "4 examples" in decisions(near)[0].because
    assert enough(dataclasses.replace(near, goal=0.6)) == GOOD
    assert enough(dataclasses.replace(near, goal=0.9)) is None  # the score does, its interval does not
    assert enough(dataclasses.replace(near, goal=None)) is None
    bits = dataclasses.replace(near, baselines=(Baseline(0, 2.0, 1.9, 2.1, 50),), goal=2.2, higher=False)
    assert enough(bits) == bits.baselines[0]
    assert enough(dataclasses.replace(bits, goal=2.0)) is None


@pytest.mark.parametrize(("change", "word"), [
    ({}, "LoRA on all linear maps"),
    ({"fits": False}, "4 bits"),
    ({"recipe": "lp_ft"}, "lp_ft"),
    ({"recipe": "masked", "answers": "texts"}, "masked tokens"),
    ({"answers": "worked"}, "rft"),
    ({"answers": "prose"}, "self_rewrite"),
    ({"answers": "texts"}, "new_knowledge"),
    ({"parameters": 2_000_000_000}, "promot"),
    ({"rows": 100_000}, "data select"),
], ids=["plain", "memory", "head", "masked", "worked", "prose", "texts", "large", "many"])  # fmt: skip
def test_the_situation_decides(change, word):
    situation = dataclasses.replace(PLAIN, **change)
    said = [one.what for one in decisions(situation)]
    assert any(word in one for one in said)
    assert ("the guard" in " ".join(said)) == (situation.recipe == "keep")
    assert any("instruction_kl" in one for one in said) == (situation.recipe == "keep" and word != "new_knowledge")
    assert all(one.because for one in decisions(situation))
    others = {"rft", "self_rewrite", "new_knowledge", "promot", "data select"} - {word}
    assert not any(other in one for one in said for other in others)


def test_of_equal_rates_the_smallest_is_taken():
    assert best_rate({1e-3: 0.5, 3e-3: 0.5, 3e-4: 0.4}) == 1e-3
    assert best_rate({1e-3: 2.5, 3e-3: 2.1}, higher=False) == 3e-3


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "small.jsonl"
    rows = [{"text": f"number {n} is", "label": "even" if n % 2 == 0 else "odd"} for n in range(120)]
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return file


SMALL = ["data.replay.rows=4", "data.replay.chats=0", "data.replay.max_tokens=12", "proof.items=50"]
SMALL += ["stages[0].epochs=null", "stages[0].steps=3", "stages[0].batch_tokens=256", "model.dtype=float32"]


@pytest.mark.slow
def test_a_file_becomes_a_certificate_and_a_second_call_measures_nothing(data, model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = flow.auto(data, str(model), tmp_path / "auto", settings=SMALL, quiet=True)
    assert result["verdict"] in ("PASS", "FAIL", "UNDECIDED")
    assert [one["shots"] for one in result["baselines"]] == [0, 1, 4]
    assert len(result["rates"]) == 3
    assert result["hands"][0]["weight"] == 60.0
    passed = [one["passed"] for one in result["hands"]]
    assert len(passed) == 4 or passed.index(False) == len(passed) - 1, "tried until the first that does not pass"
    stored = json.loads((tmp_path / "auto" / "auto.json").read_text())
    assert stored["decisions"] == result["decisions"]
    recipe = (tmp_path / "auto" / "run" / "recipe.yaml").read_text()
    assert "forget: 0.02" in recipe
    assert "share: 0.2" in recipe, "the proof asks nothing that the choice has seen"
    own = flow.auto(data, str(model), tmp_path / "own", settings=[*SMALL, "stages[0].losses[1].weight=9"], quiet=True)
    assert own["hands"] == [], "a weight that the user sets is not searched for"
    monkeypatch.setattr(flow, "baselines", None)
    monkeypatch.setattr("keeptune.recipes.rates.execute", None)
    again = flow.auto(data, str(model), tmp_path / "auto", settings=SMALL, quiet=True)
    assert (again["rates"], again["hands"]) == (result["rates"], result["hands"])
    assert again["certificate"] == result["certificate"]


def test_a_goal_that_the_base_reaches_ends_with_the_prompt(data, model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = flow.auto(data, str(model), tmp_path / "auto", goal=0.0, settings=SMALL, quiet=True)
    assert result["verdict"] is None
    assert result["decisions"][0]["what"] == "no training"
    assert not (tmp_path / "auto" / "run").exists()
    assert json.loads((tmp_path / "auto" / "prompt.json").read_text()) == []


def test_without_a_target_there_is_nothing_to_choose_by(data, model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(RecipeError) as caught:
        flow.auto(data, str(model), tmp_path / "auto", settings=[*SMALL, "proof.target=null"], quiet=True)
    assert caught.value.code == "E-AUTO-TARGET"


@pytest.mark.slow
def test_an_encoder_gets_its_head_first_and_its_certificate(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw, rows = random.Random(3), []
    for _ in range(160):
        label = draw.choice(["low", "high"])
        first = draw.choice([5, 6] if label == "low" else [40, 41])
        rows.append({"text": f"w{first} w{first} w{draw.randrange(3, 60)}", "label": label})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    settings = ["proof.items=50", "model.dtype=float32", "stages[0].batch_tokens=48", "stages[1].batch_tokens=48"]
    folder = str(folder_of(tmp_path / "model", "bert"))
    with monkeypatch.context() as patched:
        patched.setattr(flow, "run_recipe", lambda *words, budget, quiet: {"budget": list(budget)})
        asked = {budget: flow.auto(tmp_path / "rows.jsonl", folder, tmp_path / "auto", settings=settings, quiet=True,
                                   budget=budget)["budget"] for budget in ((), ("forget=5pt",))}  # fmt: skip
        assert asked == {(): [], ("forget=5pt",): ["forget=5pt"]}, "a budget that is said holds for an encoder too"
    result = flow.auto(tmp_path / "rows.jsonl", folder, tmp_path / "auto", settings=settings, quiet=True)
    assert "lp_ft" in result["decisions"][1]["what"]
    assert result["baselines"] == []
    assert result["certificate"]["target"]["adapted"] > 0.8
    assert result["certificate"]["deployment"] == "routed"


@pytest.mark.slow
def test_images_and_texts_for_an_encoder_are_decided_as_init_writes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    (tmp_path / "vit").mkdir()
    image_folder(tmp_path / "vit", halves())
    few = ["proof.items=50", "model.dtype=float32"]
    steps = [f"stages[{place}].{one}" for place in range(2) for one in ("epochs=null", "steps=3", "batch_tokens=768")]
    made = flow.auto(
        tmp_path / "vit" / "rows.jsonl", str(tmp_path / "vit" / "model"), tmp_path / "images",
        settings=[*few, *steps], quiet=True,
    )  # fmt: skip
    assert "lp_ft" in made["decisions"][1]["what"]
    assert made["baselines"] == []
    assert made["certificate"]["deployment"] == "routed"

    masked_folder(tmp_path / "bert")
    texts = [f"{one.text} {one.text}" for one in build_facts(0, 8, 6).train]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    made = flow.auto(
        tmp_path / "texts.jsonl", str(tmp_path / "bert"), tmp_path / "texts", settings=[*few, *steps[:3]], quiet=True
    )
    assert made["decisions"][1]["what"] == "LoRA, by masked tokens"
    assert [one["shots"] for one in made["baselines"]] == [0]
    assert made["certificate"]["target"]["metric"] == "bits_per_byte"
