"""A comparison's headline tells every verdict, an undecided one as undecided; other targets are not compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from keeptune.core.errors import RecipeError
from keeptune.recipes.compare import _same_items, _title

CASES = {
    "PASS PASS": "a, b learned the task and kept the rest",
    "PASS FAIL FAIL": "a learned the task and kept the rest; b, c did not keep it",
    "UNDECIDED FAIL": "What a kept cannot be told from this evidence; b did not keep general ability",
    "PASS UNDECIDED FAIL": "a learned the task and kept the rest; what b kept cannot be told from this evidence; "
    "c did not keep it",
    "FAIL": "a did not keep general ability",
}


@pytest.mark.parametrize("verdicts", CASES)
def test_every_run_is_named_with_its_verdict(verdicts):
    entries = [
        SimpleNamespace(name=name, certificate={"verdict": verdict})
        for name, verdict in zip("abc", verdicts.split(), strict=False)
    ]
    assert _title(entries) == CASES[verdicts]


def test_scores_of_different_targets_are_not_set_side_by_side():
    def entry(name, target):
        return SimpleNamespace(name=name, target=target, certificate={"retention": None})

    own, none = entry("a", {"metric": "label_accuracy", "n": 46}), entry("b", {})
    folders = [Path("a"), Path("b"), Path("c")]
    _same_items([none, own, entry("c", dict(own.target))], folders)
    for other in ({"metric": "token_f1", "n": 46}, {"metric": "label_accuracy", "n": 40}):
        with pytest.raises(RecipeError, match="the target of 'c'") as refused:
            _same_items([none, own, entry("c", other)], folders)
        assert refused.value.code == "E-COMPARE-ITEMS"
