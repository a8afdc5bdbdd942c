"""The folder of a proof: an equal one is shown again, another one is refused, and nothing in it is lost."""

from __future__ import annotations

import json

import pytest

from keeptune.core.errors import Interrupted, RecipeError
from keeptune.core.run import Run
from keeptune.recipes import proof as proof_module
from keeptune.recipes.proof import prove_pair
from tests.evaluations.tiny_subject import learned, tiny, tokenizer

WORDS = "red green blue black white brown grey pink".split()


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Two models and a suite of one task."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, model in (("before", tiny()), ("other", learned(256))):
        model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)

    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("doors.jsonl", [
        {"prompt": f"The {word} door {n} is", "options": [" open", " opened it"], "gold": 0}
        for n in range(5) for word in WORDS
    ])  # fmt: skip
    (tmp_path / "suite.yaml").write_text('version: "4"\ntasks:\n  - {name: doors, file: doors.jsonl, kind: choice}\n')
    write("task.jsonl", [{"text": f"What colour is lantern {n}?", "label": WORDS[n % 3]} for n in range(12)])
    return tmp_path


def proof(work, after="before", **more):
    given = {"target": work / "task.jsonl", "metric": "label_accuracy", **more}
    return prove_pair(str(work / "before"), str(work / after), work / "proof", suite=str(work / "suite.yaml"), **given)


def contents(folder):
    """Every file that speaks of the result."""
    told = ("certificate.json", "certificate.html", "items.jsonl.gz", "scores.json", "data.json", "exactness.json")
    return {name: (folder / name).read_bytes() for name in told}


def state(folder):
    return json.loads((folder / "state.json").read_text())["state"]


def test_an_equal_proof_is_shown_again_and_nothing_is_measured(work, monkeypatch):
    first = proof(work)
    held = contents(work / "proof")
    monkeypatch.setattr(proof_module, "measure", lambda *asked: pytest.fail("something was measured"))
    again = proof(work)
    assert again["text"] == first["text"]
    assert contents(work / "proof") == held
    proof(work, lang="zh")
    assert contents(work / "proof")["certificate.json"] == held["certificate.json"]
    assert contents(work / "proof")["certificate.html"] != held["certificate.html"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"after": "other"}, "models.after"),
        ({"metric": "exact_match"}, "metric: label_accuracy -> exact_match"),
        ({"target": None}, "data.target"),
        ({"sequential": True}, "sequential: false -> true"),
    ],
)
def test_another_proof_is_refused_by_what_differs_and_the_folder_stays_as_it_was(work, change, named):
    proof(work)
    held = contents(work / "proof")
    with pytest.raises(RecipeError, match="another proof") as refused:
        proof(work, **change)
    assert refused.value.code == "E-RESUME-DIFFERENT"
    assert named in str(refused.value)
    assert refused.value.fix == "Choose another --output."
    assert contents(work / "proof") == held
    assert state(work / "proof") == "done"


def test_a_proof_that_was_stopped_goes_on(work, monkeypatch):
    def stopped(*scores, **settings):
        raise Interrupted("stopped.", code="E-RUN-INTERRUPTED")

    with monkeypatch.context() as during:
        during.setattr(proof_module, "certify", stopped)
        with pytest.raises(Interrupted):
            proof(work)
    assert state(work / "proof") == "interrupted"
    assert proof(work)["certificate"]["target"]["n"] == 12


def test_a_proof_does_not_take_the_place_of_a_run_nor_of_results_without_their_settings(work):
    with Run.open(work / "proof") as run:
        run.check_exactness({"seed": 7, "stages": []})
        run.metric(1, loss=1.0)
    with pytest.raises(RecipeError, match="this folder holds a run of a recipe"):
        proof(work)
    (work / "proof" / "exactness.json").unlink()
    (work / "proof" / "certificate.json").write_text("{}")
    with pytest.raises(RecipeError, match="holds results, and no"):
        proof(work)
    assert (work / "proof" / "certificate.json").read_text() == "{}"
