"""The demo's sizes: small for one seed, larger for several, and a user's own settings last."""

from __future__ import annotations

import pytest

from keeptune.core.errors import KeeptuneError
from keeptune.recipes import demo
from keeptune.recipes.recipe import load_recipe


@pytest.fixture
def arms(monkeypatch):
    """What would run, instead of running it: settings by arm."""
    seen = {}
    monkeypatch.setattr(demo, "run_side_by_side", lambda given, folders, **rest: seen.update(given))
    monkeypatch.setattr(demo, "compare_runs", lambda folders, page, lead: {"text": lead})
    return seen


def sizes(settings, recipe="sft"):
    loaded = load_recipe(recipe, settings)
    return loaded.data["task"].train, loaded.proof.items, loaded.proof.seeds


def test_one_seed_is_smaller_than_several(arms, tmp_path):
    assert "one seed" in demo.run_demo(tmp_path, seeds=1, settings=[], quiet=True)["text"]
    one = {arm: sizes(own, arm) for arm, own in arms.items()}
    assert "3 seeds" in demo.run_demo(tmp_path, seeds=3, settings=[], quiet=True)["text"]
    three = {arm: sizes(own, arm) for arm, own in arms.items()}
    assert set(one) == {"sft", "promot", "replay_kl"} == set(three)
    assert len(set(one.values())) == 1 == len(set(three.values())), "arms are compared at one size"
    assert one["sft"][0] < three["sft"][0]
    assert one["sft"][1] < three["sft"][1]
    assert (one["sft"][2], three["sft"][2]) == (1, 3)


def test_a_users_own_setting_wins(arms, tmp_path):
    demo.run_demo(tmp_path, seeds=1, settings=["data.task.train=7"], quiet=True)
    assert {sizes(own, arm)[0] for arm, own in arms.items()} == {7}


def test_a_wrong_setting_is_said_before_anything_starts(arms, tmp_path):
    with pytest.raises(KeeptuneError):
        demo.run_demo(tmp_path, seeds=1, settings=["data.task.trian=7"], quiet=True)
    assert not arms
