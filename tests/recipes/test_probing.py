"""`keeptune probe` whole: pocket on a small treebank whose tag is known, its log, its page and its refusals."""

from __future__ import annotations

import json
import random

import pytest

from keeptune.core.errors import DataError, RecipeError
from keeptune.core.files import read_json
from keeptune.recipes import probing
from keeptune.recipes.probe_data import probe_data
from keeptune.recipes.probing import asked_of, probe_models, probe_of

NOUNS = "dog cat house river tree stone bird road king ship door hand".split()
VERBS = "sees likes finds hears wants knows holds needs".split()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def treebank(tmp_path):
    draw, lines = random.Random(0), []
    for _ in range(120):
        words = ["the", draw.choice(NOUNS), draw.choice(VERBS), "a", draw.choice(NOUNS), "."]
        lines.append({"text": " ".join(words[:-1]) + ".", "form": words, "head": [2, 3, 0, 5, 3, 3],
                      "upos": ["DET", "NOUN", "VERB", "DET", "NOUN", "PUNCT"]})  # fmt: skip
    path = tmp_path / "bank.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def probed(path, output, *, models=("pocket",), task="upos", probes=("linear",), seeds=1, codelength=False, **more):
    asked = asked_of(task, probes, more.pop("layers", [0, 3]), "mean", seeds=seeds, codelength=codelength)
    return probe_models(models, {"train": path}, asked, output, rows=None, quiet=True, **more)


def test_tags_that_follow_from_the_word_are_read_off_the_embeddings(treebank, tmp_path):
    result = probed(treebank, tmp_path / "out", seeds=2, codelength=True)
    first = result["rows"][0]
    assert (first["layer"], first["accuracy"]["value"]) == (0, 1.0)
    assert first["compression"] > 1
    assert first["selectivity"]["value"] == pytest.approx(first["accuracy"]["value"] - first["control"]["value"])
    assert [seed["seed"] for seed in first["seeds"]] == [0, 1]
    assert result["units"]["test"] == 6 * result["texts"]["test"]
    assert sum(result["texts"].values()) == 120
    saved = read_json(tmp_path / "out" / "probe.json")
    assert saved["rows"] == result["rows"]
    page = (tmp_path / "out" / "probe.html").read_text()
    assert page.count("<svg") == 3
    assert "NaN" not in page


def test_the_same_command_measures_nothing_twice_and_goes_on_after_a_cut(treebank, tmp_path, monkeypatch):
    first = probed(treebank, tmp_path / "out")
    log = tmp_path / "out" / "probes.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[1][:40])
    done = []
    measured = probing._measured
    monkeypatch.setattr(probing, "_measured", lambda *a, **k: done.append(a[3]) or measured(*a, **k))
    again = probed(treebank, tmp_path / "out")
    assert done == [3]
    drop = {"seconds"}
    for one, other in zip(first["rows"], again["rows"], strict=True):
        assert {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in other.items() if k not in drop}
    probed(treebank, tmp_path / "out")
    assert done == [3]


def test_a_model_compared_with_itself_has_not_changed(treebank, tmp_path):
    from keeptune.models.load import load

    same = tmp_path / "copy"
    loaded = load("pocket", dtype="float32", device="cpu")
    loaded.model.save_pretrained(same)
    loaded.tokenizer.save_pretrained(same)
    result = probed(treebank, tmp_path / "out", models=("pocket", str(same)), layers=[3])
    (change,) = result["changes"]
    assert change["accuracy"] == change["selectivity"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_heads_and_labels_are_tasks_too(treebank, tmp_path):
    heads = probed(treebank, tmp_path / "heads", task="edges", probes=["bilinear:rank=16"], layers=[3])
    assert heads["units"]["test"] == 5 * heads["texts"]["test"]
    assert heads["rows"][0]["accuracy"]["value"] > heads["baseline"]
    rows = tmp_path / "labels.jsonl"
    draw = random.Random(1)
    said = [(f"{draw.choice(['good', 'fine'])} {noun} {n}", "yes") for n, noun in enumerate(NOUNS * 5)]
    said += [(f"{draw.choice(['bad', 'poor'])} {noun} {n}", "no") for n, noun in enumerate(NOUNS * 5)]
    rows.write_text("".join(json.dumps({"prompt": text, "completion": label}) + "\n" for text, label in said))
    labelled = probed(rows, tmp_path / "labels", task="label", layers=[3])
    assert labelled["classes"] == ["no", "yes"]
    assert labelled["rows"][0]["accuracy"]["value"] > 0.8


def test_equal_texts_stay_in_one_part_and_a_cap_takes_a_subset(treebank):
    whole, few = probe_data({"train": treebank}, "upos", None), probe_data({"train": treebank}, "upos", 5)
    for part in ("train", "dev", "test"):
        texts = {one.text for one in whole.texts[part]}
        assert {one.text for one in few.texts[part]} <= texts
        others = {one.text for other in whole.texts if other != part for one in whole.texts[other]}
        assert not texts & others
    assert len(few.texts["train"]) == 5


def test_what_cannot_be_asked_is_refused(treebank, tmp_path):
    with pytest.raises(RecipeError, match="no such layer"):
        probed(treebank, tmp_path / "out", layers=[9])
    with pytest.raises(RecipeError) as caught:
        probed(treebank, tmp_path / "out", task="edges", probes=["linear"])
    assert caught.value.code == "E-PROBE-KIND"
    with pytest.raises(DataError) as lost:
        probed(treebank, tmp_path / "out", task="xpos")
    assert lost.value.code == "E-DATA-KEY"
    with pytest.raises(RecipeError) as setting:
        probe_of("mlp:dept=2")
    assert "depth" in setting.value.fix or "depth" in str(setting.value)
    with pytest.raises(RecipeError):
        probe_of("mlp:depth")
    assert probe_of("mlp:depth=2,width=30").to_dict()["width"] == 30
