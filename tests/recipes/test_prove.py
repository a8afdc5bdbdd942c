"""`keeptune prove` on two models: what training has seen, what nobody knows, what comes next; and their diagnosis."""

from __future__ import annotations

import json

import pytest

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import DataError, ModelError, RecipeError
from keeptune.core.files import write_json
from keeptune.models import precision
from keeptune.recipes import proof as proof_module
from keeptune.recipes.proof import pair_from, prove_pair
from tests.evaluations.tiny_subject import learned, tiny, tokenizer
from tests.methods.test_templates import folder_of

WORDS = "red green blue black white brown grey pink".split()


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    write("doors.jsonl", [
        {"prompt": f"The {word} door {n} is", "options": [" open", " opened it"], "gold": 0}
        for n in range(5) for word in WORDS
    ])  # fmt: skip
    write("prose.jsonl", [{"text": f"The {word} lantern hung over the long quay."} for word in WORDS])
    (tmp_path / "requests.txt").write_text("Tell me a story.\nName a river.\nWrite a poem.\nWhy is it late?\n")
    (tmp_path / "suite.yaml").write_text(
        'version: "4"\ntasks:\n  - {name: doors, file: doors.jsonl, kind: choice}\n'
        "  - {name: prose, file: prose.jsonl, kind: corpus}\ninstructions: requests.txt\n"
    )
    rows = [{"text": f"What colour is lantern {n}?", "label": WORDS[n % 3]} for n in range(12)]
    write("task.jsonl", rows)
    # Two rows of the target and one question of the suite stand in what was trained on.
    write(
        "trained.jsonl", [*rows[:2], {"text": "The red door 0 is", "label": "red"}, {"text": "New.", "label": "blue"}]
    )
    return tmp_path


def test_a_model_beside_a_run_is_taken_in_the_dtype_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "has_units", lambda device: False)
    runs = {}
    for name in ("bfloat16", "float32"):
        runs[name] = tmp_path / name
        runs[name].mkdir()
        write_json(runs[name] / "checkpoint.json", Checkpoint("pocket", dtype=name).to_dict())
    for name, run in runs.items():
        assert [one.dtype for one in pair_from("pocket", str(run))] == [name, name]
        assert [one.dtype for one in pair_from(str(run), "pocket")] == [name, name]
    assert [one.dtype for one in pair_from(str(runs["bfloat16"]), str(runs["float32"]))] == ["bfloat16", "float32"]
    assert [one.dtype for one in pair_from("pocket", "pocket")] == ["float32", "float32"]


def proof(work, **more):
    return prove_pair("pocket", "pocket", work / "proof", suite=str(work / "suite.yaml"), target=work / "task.jsonl",
                      metric="label_accuracy", **more)  # fmt: skip


def test_every_measured_part_is_held_against_what_was_trained_on(work):
    done = proof(work, train_data=work / "trained.jsonl")
    told = done["certificate"]["provenance"]
    found = {row["measured"]: (row["items"], row["exact"]) for row in told["contamination"]}
    assert found["target"] == (12, 2)
    assert found["doors"] == (40, 1)
    assert found["prose"] == (8, 0)
    assert (told["suite"]["name"], told["suite"]["version"]) == ("suite", "4")
    assert told["digests"]["before"] == told["digests"]["after"]
    assert told["data"].keys() == {"target", "trained on"}
    page = (work / "proof" / "certificate.html").read_text()
    assert "training has seen 3" in page


def test_what_a_proof_of_two_models_cannot_know_it_does_not_say(work):
    done = proof(work)
    assert done["certificate"]["provenance"]["contamination"] is None
    page = (work / "proof" / "certificate.html").read_text()
    assert "not known: whoever made the models" in page
    assert "before either model was measured" in page
    assert "before training" not in page
    assert "keeptune chat" not in page + done["text"]


def test_two_encoders_are_asked_for_halves_of_texts_and_nothing_that_they_cannot_write(work):
    folder_of(work / "encoder", "bert")
    corpus = [{"text": " ".join(f"w{5 + (n * 7 + place) % 50}" for place in range(12))} for n in range(12)]
    (work / "prose.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (work / "margins.yaml").write_text("tasks: {halves of prose: 0.1}\n")
    done = prove_pair(str(work / "encoder"), str(work / "encoder"), work / "proof", suite=str(work / "suite.yaml"),
                      margins=work / "margins.yaml")["certificate"]  # fmt: skip
    retention = done["retention"]
    assert {one["name"] for one in (*retention["tasks"], *retention["excluded"])} == {"halves of prose"}
    assert done["unchanged"]
    assert done["drift"] is None


def test_a_model_that_cannot_be_opened_is_told_before_the_other_one_is_measured(work, monkeypatch):
    monkeypatch.setattr(proof_module, "measure", lambda *asked: pytest.fail("something was measured"))
    with pytest.raises(ModelError, match="no such model folder"):
        prove_pair("pocket", str(work / "none"), work / "proof", suite=str(work / "suite.yaml"))


def test_an_unknown_metric_is_refused_before_anything_is_measured(work, monkeypatch):
    monkeypatch.setattr(proof_module, "measure", lambda *asked: pytest.fail("something was measured"))
    with pytest.raises(RecipeError, match="label_accuracy") as refused:
        prove_pair("pocket", "pocket", work / "proof", target=work / "task.jsonl", metric="accuracy")
    assert refused.value.code == "E-CONFIG-VALUE"
    assert not (work / "proof").exists()


def test_a_margin_of_a_task_that_is_not_asked_is_refused(work):
    (work / "margins.yaml").write_text("tasks: {dors: 0.05}\n")
    with pytest.raises(RecipeError, match="Did you mean 'doors'") as refused:
        proof(work, margins=work / "margins.yaml")
    assert refused.value.code == "E-MARGIN-TASK"


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
def test_a_diagnosis_of_two_models_needs_no_training_rows_and_uses_them_where_there_are(work, trained):
    more = {"train_data": work / "trained.jsonl"} if trained else {}
    found = proof(work, diagnose=True, **more)["certificate"]["diagnosis"]
    assert found["kinds"] == ["unchanged"]
    assert ("training_like" in found["behaviour"]) == trained


@pytest.fixture
def contexts(work):
    """Models whose contexts are 200 rotary positions and 96 learned ones."""
    for name, model in (("wide", tiny(max_position_embeddings=200)), ("narrow", learned(96))):
        model.save_pretrained(work / name)
        tokenizer().save_pretrained(work / name)
    return work


def between(work, before, after, **more):
    return prove_pair(str(work / before), str(work / after), work / "proof", suite=str(work / "suite.yaml"),
                      target=work / "task.jsonl", **more)  # fmt: skip


def longer(path, row):
    path.write_text(path.read_text() + row + "\n")


@pytest.mark.parametrize(("before", "after", "context"), [("wide", "narrow", 96), ("wide", "wide", 200)])
def test_what_is_longer_than_the_smaller_context_is_left_out_of_both_sides_by_name(contexts, before, after, context):
    long = "word " * (context + 10)
    longer(contexts / "task.jsonl", json.dumps({"text": long, "label": "red"}))
    longer(contexts / "doors.jsonl", json.dumps({"prompt": "The door is", "options": [" shut", long], "gold": 0}))
    longer(contexts / "requests.txt", long)
    longer(contexts / "prose.jsonl", json.dumps({"text": long}))
    done = between(contexts, before, after, metric="label_accuracy")
    told = done["certificate"]["left_out"]
    names = {"target": 13, "doors": 41, "unrelated requests": 5}
    assert told == [{"name": name, "items": 1, "of": of, "context": context} for name, of in names.items()]
    assert done["certificate"]["target"]["n"] == 12
    assert f"1 of 41 items of 'doors': longer than the context of {context} tokens" in done["text"]
    assert "left out of both sides: 3" in (contexts / "proof" / "certificate.html").read_text()


def test_a_target_whose_rows_are_all_too_long_is_refused_with_the_context(contexts):
    rows = [{"text": "word " * 120 + word, "label": word} for word in WORDS]
    (contexts / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="of the 8 rows of 'target' fits the context of 96 tokens") as refused:
        between(contexts, "wide", "narrow")
    assert refused.value.code == "E-DATA-LONG"


@pytest.mark.parametrize(("model", "context"), [("wide", 200), ("narrow", 96)])
def test_a_diagnosis_leaves_out_what_its_examples_make_too_long_and_counts_it(contexts, model, context):
    """Computed positions would answer beyond the context without a word, learned ones would end in an error."""
    rows = [
        {"prompt": f"Which {word} door is it?" + " word" * (5 * n), "options": ["open", "shut"], "gold": 0}
        for n, word in enumerate(WORDS * 2)
    ]
    (contexts / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    talk = "tasks:\n  - {name: talk, file: talk.jsonl, kind: choice, chat: true}\n"
    (contexts / "suite.yaml").write_text((contexts / "suite.yaml").read_text().replace("tasks:\n", talk))
    done = between(contexts, model, model, diagnose=True)
    told = {one["name"]: one for one in done["certificate"]["left_out"]}
    assert told["talk, said after 4"]["items"] > 0
    assert ("in context, natural_4_shot" in told) == (model == "narrow")
    assert {one["context"] for one in told.values()} == {context}
    assert "of 'talk, said after 4': longer than the context" in done["text"]
