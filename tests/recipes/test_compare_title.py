"""The headline of a comparison tells every verdict, an undecided one as undecided."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from keeptune.recipes.compare import _title

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
