"""`--set` reaches every setting, and says so when it does not."""

from __future__ import annotations

import pytest

from keeptune.core.errors import RecipeError
from keeptune.recipes.overrides import with_overrides

PLAIN = {"seed": 7, "stages": [{"name": "train", "id": "first", "method": "lora"}], "data": {}}
PLAIN["stages"].append({"name": "train", "id": "mix", "method": ["lora", "prompt"]})


@pytest.mark.parametrize(
    ("setting", "look"),
    [
        ("seed=3", lambda p: p["seed"] == 3),
        ("stages[0].epochs=2", lambda p: p["stages"][0]["epochs"] == 2),
        ("stages.first.method.rank=8", lambda p: p["stages"][0]["method"] == {"name": "lora", "rank": 8}),
        ("stages.mix.method.prompt.length=8", lambda p: p["stages"][1]["method"][1] == {"name": "prompt", "length": 8}),
        ("stages.mix.method[0]=norm", lambda p: p["stages"][1]["method"] == ["norm", "prompt"]),
        ("data.task.path=a b.jsonl", lambda p: p["data"]["task"]["path"] == "a b.jsonl"),
        ("too_long=null", lambda p: p["too_long"] is None),
        ("stages[0].losses=[next_token]", lambda p: p["stages"][0]["losses"] == ["next_token"]),
    ],
)
def test_a_setting_lands_where_it_says(setting, look):
    assert look(with_overrides(PLAIN, [setting]))


def test_the_original_is_untouched():
    with_overrides(PLAIN, ["stages[0].method.rank=8"])
    assert PLAIN["stages"][0]["method"] == "lora"


@pytest.mark.parametrize("setting", ["seed", "stages[4].epochs=1", "stages.last.epochs=1", "seed.deep=1", "=3"])
def test_a_path_that_leads_nowhere_is_refused(setting):
    with pytest.raises(RecipeError) as caught:
        with_overrides(PLAIN, [setting])
    assert caught.value.code == "E-USAGE-SET"
    assert setting in str(caught.value)
