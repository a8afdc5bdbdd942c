"""Rewritten targets: what is asked, what is kept, and that every row stays."""

from __future__ import annotations

import pytest

from keeptune.core.errors import RecipeError
from keeptune.core.example import Example, Message
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.data.encoder import Request
from keeptune.stages import Stage, _answering
from keeptune.stages._made import read_made
from keeptune.stages.rewrite import Rewrite
from tests.stages.tiny_training import Bench


def row(name: str, question: str, answer: str) -> Example:
    return Example(name, (Message("user", question), Message("assistant", answer)), source="task")


ROWS = [row("a", "2 and 2?", "It is 4."), row("b", "Name {reference}.", "Oslo"), row("c", "3 and 3?", "6 it is")]


def rewrite(**settings) -> Rewrite:
    return validate(Stage, {"name": "rewrite", **settings})


def test_the_model_is_shown_the_answer_and_its_last_question_alone_is_changed():
    first, last = Message("user", "Hello"), Message("user", "Name {reference}.")
    long = Example("b", (first, Message("assistant", "Hi"), last, Message("assistant", "Oslo")), source="task")
    asked = rewrite(ask="{instruction} | {reference}").asking(long)
    assert [turn.content for turn in asked] == ["Hello", "Hi", "Name {reference}. | Oslo"]


def test_a_rewriting_that_fails_a_check_leaves_the_row_as_it_was(tmp_path, monkeypatch):
    said = {"a": "Four, that is 4.", "b": None, "c": "The given answer is 6"}
    asked = []

    def written(loaded, checkpoint, work, prompts, *how):
        asked.append(list(prompts))
        return {name: said[name] for name in prompts}

    monkeypatch.setattr(_answering, "_written", written)
    monkeypatch.setattr(Rewrite, "_prompts", lambda self, loaded, work, rows: {one.id: Request((1, 2)) for one in rows})
    bench = Bench(tmp_path)
    with Run.open(tmp_path / "run") as run:
        work = bench.work(run, examples={"task": ROWS})
        assert rewrite().run(bench.base, work) == bench.base
        made = read_made(work.folder, "rewritten")
        assert [one.target for one in made] == ["Four, that is 4.", "Oslo", "6 it is"]
        assert [one.prompt for one in made] == [one.prompt for one in ROWS]
        event = next(event for event in run.events() if event["kind"] == "rewritten")
        assert (event["rewritten"], event["empty_or_unended"], event["speaks_of_the_request"]) == (1, 1, 1)
        rewrite().run(bench.base, work)  # a second time nothing is asked
        assert asked == [["a", "b", "c"]]
        assert read_made(work.folder, "rewritten") == made


def test_a_verifier_has_the_last_word():
    strict = rewrite(verifier="exact_match")
    assert strict.fault(ROWS[1], "oslo!") is None
    assert strict.fault(ROWS[1], "Bergen") == "wrong answer"


def test_a_request_without_its_places_is_refused():
    with pytest.raises(RecipeError, match="once"):
        rewrite(ask="Say it again: {reference}")
