"""Sifting against a slow reading of the paper's script; the stage on a random model, killed and resumed."""

from __future__ import annotations

import importlib
import json
import random
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from keeptune.core.errors import DataError, Interrupted
from keeptune.core.example import Example, Message
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.data.edit_distance import edit_distance
from keeptune.data.encode import Encoded
from keeptune.data.verifiers.number import Number
from keeptune.engine import generation
from keeptune.stages import Stage
from keeptune.stages._answering import question_tokens
from keeptune.stages._made import read_made
from keeptune.stages._sifting import sift, told


def asked(name: str, answer: str) -> Example:
    return Example(name, (Message("user", f"question {name}"), Message("assistant", answer)), source="task")


def as_published(gold: str, answers: list[str]) -> dict[str, str]:
    """The order of the paper's script, for answers of the form `<<equation>>... #### number`, with plain Python."""
    kept: dict[str, str] = {}
    for text in answers:
        equations = [part.split(">>")[0] for part in text.split("<<")[1:]]
        if "####" not in text or text.split("####")[1].strip() != gold:
            continue
        if any(abs(eval(one.split("=")[0]) - eval(one.split("=")[1])) >= 1e-3 for one in equations):
            continue
        key = "|".join(equations).replace(" ", "")
        if key not in kept:
            kept[key] = text
            continue
        others = [kept[other] for other in kept if other != key]
        new, old = (sum(edit_distance(one, other) for other in others) for one in (text, kept[key]))
        if new > old:
            kept[key] = text
    return kept


def test_what_stays_is_what_the_published_script_keeps():
    generator = random.Random(0)
    pieces = ["<<2*3=6>>", "<<3*2=6>>", "<<2*3=7>>", "<<1+5=6>>", "<< 2*3 = 6 >>"]
    words = ["so", "then we have", "thus", "it follows that"]
    for _ in range(40):
        answers = [
            " ".join([
                generator.choice(words), generator.choice(pieces), generator.choice(words),
                f"#### {generator.choice(['6', '6', '6', '7'])}",
            ])
            for _ in range(generator.randint(1, 12))
        ]  # fmt: skip
        found = sift(asked("q", "#### 6"), answers, Number())
        assert found.ways == as_published("6", answers)
        assert sum(found.counts.values()) == len(answers)


def test_counts_add_up_and_the_cap_is_for_each_question():
    right = ["<<1+5=6>> #### 6", "<<2*3=6>> #### 6", "<<3*2=6>> #### 6", "<<3*2=6>> so #### 6"]
    sifted = [
        sift(asked("a", "#### 6"), [*right, "#### 7", "<<1=2>> #### 6"], Number()),
        sift(asked("b", "#### 6"), ["none"], Number()),
    ]
    counts = told(sifted, 2)
    assert counts["answers"] == counts["right"] + counts["wrong number"] + counts["wrong equation"] + 1
    assert counts["right"] == counts["same way as another"] + counts["beyond the cap"] + counts["kept"] == 4
    assert (counts["kept"], counts["questions"], counts["questions with an answer kept"]) == (2, 2, 1)
    assert told(sifted, None)["kept"] == 3


def test_a_question_ends_where_the_last_answer_begins():
    row = Encoded("r", "task", (1, 2, 3, 4, 5, 6), (False, True, False, False, True, True))
    assert question_tokens(row) == (1, 2, 3, 4)


class Words:
    """A tokenizer of numbers: token 30 is the word `30`; 2 ends an answer."""

    all_special_ids = (0, 2)
    pad_token_id = 0
    padding_side = "left"

    def decode(self, tokens, skip_special_tokens=True):
        return " ".join(map(str, tokens))


@pytest.fixture
def sampling(bench, monkeypatch):
    """Runs the stage on a random model whose tokens are words."""
    encoding = importlib.import_module("keeptune.data.encode")
    monkeypatch.setattr(encoding, "stop_ids", lambda tokenizer, template: {2})
    calls = []
    inner = generation.generate
    monkeypatch.setattr(generation, "generate", lambda *a, **k: calls.append(k["seed"]) or inner(*a, **k))

    def open_model(checkpoint):
        loaded = bench.open(checkpoint)
        return SimpleNamespace(
            model=loaded.model, tokenizer=Words(), fingerprint=loaded.fingerprint, dtype=loaded.dtype
        )

    def go(name="run", *, fork=False, questions=10, stop=False, **settings):
        learned = (False, False, False, True, True)
        rows = [Encoded(f"q{n}", "task", (5 + n, 7, 9, 30, 2), learned) for n in range(questions)]
        examples = {"task": tuple(asked(row.id, "30") for row in rows)}
        plain = {"name": "rejection_sampling", "verifier": "tests.recipes.any_answer", "samples": 3}
        stage = validate(Stage, {**plain, **settings})
        with Run.open(bench.folder / name, fork=fork) as run:
            work = bench.work(run, data={"task": SimpleNamespace(rows=tuple(rows))}, examples=examples, base=bench.base)
            work.open = open_model
            if stop:
                run.stop_requested.set()
            result = stage.run(bench.base, work)
            return result, read_made(work.folder, "sampled"), [e for e in run.events() if e["kind"] == "sampled"]

    go.calls = calls
    return go


def test_answers_become_rows_of_a_source_with_the_questions_turns(sampling, bench):
    result, made, (event,) = sampling(max_new_tokens=200, most=2)
    assert result == bench.base
    assert made
    assert all(row.messages[0].content == f"question {row.id.split('~')[0]}" for row in made)
    assert all(row.messages[-1].role == "assistant" and row.source == "sampled" for row in made)
    assert max(int(row.id.split("~")[1]) for row in made) <= 2
    assert event["kept"] == len(made)


def test_an_answer_that_did_not_end_is_not_looked_at(sampling):
    with pytest.raises(DataError) as caught:
        sampling(max_new_tokens=1)
    assert caught.value.code == "E-SAMPLE-NOTHING"


def test_a_second_run_samples_nothing_and_gives_the_same(sampling):
    first = sampling(max_new_tokens=200)
    assert sampling(max_new_tokens=200)[1] == first[1]
    assert len(set(sampling.calls)) == len(sampling.calls) == 3


def test_a_stopped_stage_goes_on_from_its_last_chunk(sampling):
    whole = sampling("whole", max_new_tokens=200)[1]
    with pytest.raises(Interrupted):
        sampling("stopped", max_new_tokens=200, stop=True)
    sampling.calls.clear()
    assert sampling("stopped", max_new_tokens=200)[1] == whole
    assert len(sampling.calls) == 2  # of three rounds


@pytest.mark.parametrize("change", [
    {"temperature": 1.3}, {"max_new_tokens": 150}, {"questions": 9},
], ids=lambda one: next(iter(one)))  # fmt: skip
def test_answers_to_anything_else_are_not_taken_for_these(sampling, change):
    sampling(max_new_tokens=200)
    sampling.calls.clear()
    changed = sampling("run", **{"max_new_tokens": 200, **change})[1]
    assert len(sampling.calls) == 3
    assert changed == sampling("fresh", **{"max_new_tokens": 200, **change})[1]


def test_answers_of_a_model_that_was_trained_anew_in_the_same_place_are_asked_again(sampling, bench):
    first = sampling(max_new_tokens=200)[1]
    torch.manual_seed(5)
    other = load_file(bench.model / "model.safetensors")
    save_file({name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in other.items()},
              bench.model / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    sampling.calls.clear()
    again = sampling(max_new_tokens=200)[1]
    assert len(sampling.calls) == 3
    assert again != first


def test_made_rows_survive_the_file(tmp_path):
    from keeptune.stages._made import write_made

    turns = (Message("user", "hé\n"), Message("assistant", "", {"tool_calls": [{"x": 1}]}))
    rows = [Example("a~1", turns, source="s", line=1)]
    write_made(tmp_path, "s", rows)
    assert read_made(tmp_path, "s") == tuple(rows)
    assert json.loads((tmp_path / "made" / "s.jsonl").read_text())["id"] == "a~1"
