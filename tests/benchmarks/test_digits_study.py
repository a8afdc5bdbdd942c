"""The study on digits runs from random weights to its page, goes on where it was stopped, and knows what it drew."""

from __future__ import annotations

import importlib.util
import json

import pytest

import benchmarks.digits_incubation as incubation
import benchmarks.digits_page as pages
import benchmarks.digits_spottune as spottune
import benchmarks.digits_study as study

needs_digits = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="needs scikit-learn: make test-extras"
)


def made_up(seeds):
    """Runs whose inverted task is ten points worse, and has its first block tuned more often by a half."""
    runs = {}
    for arm in spottune.ARMS:
        runs[f"rate|{arm}"] = {"rate": 1e-3}
        for task, score, first in (("upright", 0.8, 0.25), ("inverted", 0.7, 0.75)):
            for seed in seeds:
                found = {"accuracy": score + seed / 100}
                found |= {"tuned": [first, 1.0, 0.0, 0.0]} if arm.startswith("spottune") else {}
                runs[f"test|{arm}|{task}|0.001|{seed}"] = found
    for place, arm in enumerate(incubation.ARMS):
        runs[f"rate|incubation|{arm}"] = {"rate": 3e-3}
        for seed in seeds:
            runs[f"test|incubation|{arm}|0.003|{seed}"] = {"accuracy": place / 10 + seed / 100}
    return runs


def test_the_page_pairs_tasks_and_arms_by_seed():
    seeds = [0, 1, 2]
    text = pages.page({"runs": made_up(seeds), "seeds": seeds, "machine": {"processor": "Own"}})
    assert "| `full` | 0.001 | 81.0 ± 1.7 | 71.0 ± 1.7 |" in text
    assert "| `spottune`, block 1 | 25.0 ± 0.0 | 75.0 ± 0.0 | 50.0 ± 0.0 |" in text
    assert "| `spottune`, all blocks | 31.2 ± 0.0 | 43.8 ± 0.0 | 12.5 ± 0.0 |" in text
    assert "differ beyond their own interval: 2 of 8;" in text
    assert "| `spottune` - `full` | 0.0 ± 0.0 | 0.0 ± 0.0 |" in text
    assert "- assembled, before any joint step, minus random weights: 10.0 ± 0.0" in text
    assert "the same block passes from end to end: -20.0 ± 0.0" in text
    assert "| assembled, before any joint step | 0.003 | 11.0 ± 1.7 |" in text


def test_a_run_is_kept_with_what_it_took(tmp_path):
    book = study.Book(tmp_path / "runs.json")
    found = book.take("dev|one", lambda: {"accuracy": 0.5})
    assert found["accuracy"] == 0.5
    assert found["seconds"] >= 0
    assert study.Book(tmp_path / "runs.json").take("dev|one", lambda: pytest.fail("run again")) == found


def test_the_page_is_what_the_command_makes_of_the_record():
    kept = json.loads(study.RESULTS.read_text(encoding="utf-8"))
    assert study.PAGE.read_text(encoding="utf-8") == pages.page(kept)


@needs_digits
def test_parts_share_no_image_and_few_rows_are_the_same_number_of_each_label():
    from benchmarks.digits_parts import drawn, parts

    data = parts("56789")
    ids = [row.id for part in data for row in part]
    assert len(ids) == len(set(ids))
    assert len(data.test) == spottune.TESTED
    every = parts(incubation.LABELS)
    assert (len(every.train), len(every.test)) == (incubation.TRAINED, incubation.TESTED)
    few = drawn(data.train, 10, seed=3)
    assert sorted(row.answer for row in few) == sorted("56789" * 10)
    assert {row.id for row in few} <= {row.id for row in data.train}
    other = parts("56789", inverted=True)
    assert all(a + b == 255 for a, b in zip(data.test[0].tokens, other.test[0].tokens, strict=True))


@needs_digits
@pytest.mark.slow
def test_a_small_study_ends_in_a_page_and_a_second_one_runs_nothing(tmp_path, monkeypatch):
    few = {"STEPS": 10, "PRETRAINED_STEPS": 10, "RATES": (1e-3,)}
    for module, settings in ((spottune, few), (incubation, {"META": 2, "MODULE": 2, "JOINT": 2, "EQUAL": 4})):
        for name, value in settings.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(incubation, "RATES", (1e-3,))
    monkeypatch.setattr(study, "SEEDS", range(2))
    file = tmp_path / "runs.json"
    study.study(study.Book(file), tmp_path)
    runs = json.loads(file.read_text())["runs"]
    assert all(0 <= share <= 1 for share in runs["test|spottune|upright|0.001|0"]["tuned"])
    text = pages.page(json.loads(file.read_text()))
    assert "## Deep Incubation" in text
    seconds = sum(run["seconds"] for name, run in runs.items() if not name.startswith("rate|"))
    took = round(seconds / 3600, 3)  # as records keep hours; rounded once more, 17 s are one hundredth
    assert f"{took:.2f} hours of training and measuring, on " in text
    monkeypatch.setattr(spottune, "adapted", lambda *_, **__: pytest.fail("run again"))
    monkeypatch.setattr(incubation, "measured", lambda *_, **__: pytest.fail("run again"))
    study.study(study.Book(file), tmp_path)
