"""Models whose weights hold no numbers: as a base they are refused by name, as what was adapted they have lost."""

from __future__ import annotations

import json

import pytest
import torch

from keeptune.core.errors import ModelError
from keeptune.recipes import proof as proof_module
from keeptune.recipes.proof import prove_pair
from tests.evaluations.tiny_subject import tiny, tokenizer

WORDS = "red green blue black white brown grey pink".split()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, the same one with a single weight that is no number, and a suite of a task and a corpus."""
    folder = tmp_path_factory.mktemp("models")
    model = tiny()
    for name, weight in (("sound", 0.1), ("broken", float("nan"))):
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight[0, 0] = weight
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    doors = [
        {"prompt": f"The {word} door {n} is", "options": [" open", " opened it"], "gold": 0}
        for n in range(5) for word in WORDS
    ]  # fmt: skip
    prose = [{"text": f"The {word} lantern hung over the long quay."} for word in WORDS]
    for name, rows in (("doors", doors), ("prose", prose)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kinds in (("doors", "prose"), ("prose",)):
        parts = [f"  - {{name: {k}, file: {k}.jsonl, kind: {'choice' if k == 'doors' else 'corpus'}}}\n" for k in kinds]
        (folder / f"{'_'.join(kinds)}.yaml").write_text('version: "4"\ntasks:\n' + "".join(parts))
    return folder


@pytest.fixture
def proof(models, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def proven(before, after, suite="doors_prose", **more):
        suite = str(models / f"{suite}.yaml")
        return prove_pair(str(models / before), str(models / after), tmp_path / "proof", suite=suite, **more)

    return proven


@pytest.mark.parametrize(
    ("suite", "told"), [("doors_prose", "40 of 40 items of 'doors'"), ("prose", "8 of 8 items of 'prose'")]
)
@pytest.mark.parametrize("after", ["sound", "broken"])
def test_a_base_without_numbers_is_refused_by_name_before_the_other_one_is_measured(
    proof, models, tmp_path, monkeypatch, after, suite, told
):
    asked = []
    measure = proof_module.measure
    monkeypatch.setattr(proof_module, "measure", lambda label, *rest: (asked.append(label), measure(label, *rest))[1])
    with pytest.raises(ModelError, match=told) as refused:
        proof("broken", after, suite=suite)
    assert (refused.value.code, refused.value.exit_code) == ("E-MODEL-NUMBERS", 4)
    assert refused.value.where == {"file": str(models / "broken")}
    assert asked == ["base"]
    assert not (tmp_path / "proof" / "certificate.json").exists()


def test_what_has_no_numbers_is_not_kept_as_a_measurement(proof):
    for _ in range(2):
        with pytest.raises(ModelError, match="not finite"):
            proof("broken", "sound")


def test_an_adapted_model_without_numbers_fails_in_words(proof, tmp_path):
    done = proof("sound", "broken")
    assert done["certificate"]["verdict"] == "FAIL"
    assert "its log-probabilities are not finite numbers on prose" in done["text"]
    assert "got worse" not in done["text"]


def test_its_diagnosis_is_written_with_null_for_what_is_no_number(proof, tmp_path):
    proof("sound", "broken", diagnose=True)
    certificate = json.loads((tmp_path / "proof" / "certificate.json").read_text())
    lost = {one["name"]: one for one in certificate["diagnosis"]["lost"]}
    assert (lost["prose"]["delta"], lost["prose"]["delta_after"]) == (None, None)
    assert '"nan"' not in json.dumps(certificate)
    assert "–%" not in (tmp_path / "proof" / "certificate.html").read_text()
