"""Two checkpoints side by side: a judge that prefers a place says nothing, a blind sheet comes back, faults named."""

from __future__ import annotations

import json

import pytest

from keeptune.core.errors import DataError, MachineError
from keeptune.core.example import Message
from keeptune.evaluations import Subject, _judge
from keeptune.evaluations._free_answers import refuse_long
from keeptune.evaluations._judge import Duel, agreed, judged
from keeptune.evaluations._likelihood import context_of
from keeptune.recipes import pairwise as module
from keeptune.recipes.pairwise import KEY, SHEET, count_votes, pairwise
from tests.evaluations.tiny_subject import context, learned, tiny, tokenizer

DUELS = [Duel("Say one.", "old one", "new one"), Duel("Say two.", "same", "same"), Duel("Say three.", "old", "new")]


def told(monkeypatch, prefer):
    """Outcomes with a judge whose log p of (A, B) is `prefer(prompt)`."""
    seen = []

    def rows(self, turns, options):
        seen.append(turns[0].content)
        return turns[0].content

    monkeypatch.setattr(_judge.Answers, "rows", rows)
    monkeypatch.setattr(_judge, "option_log_likelihoods", lambda judge, groups, *_: [list(prefer(g)) for g in groups])
    return judged(Subject(tiny(), tokenizer()), DUELS, context()), seen


def test_a_judge_that_always_says_a_has_no_opinion(monkeypatch):
    outcomes, seen = told(monkeypatch, lambda prompt: (0.0, -1.0))
    assert agreed(outcomes) == ["tie", "tie", "tie"]
    assert outcomes[0] == ("lose", "win")
    assert len(seen) == 4  # equal answers are not asked


def test_a_judge_that_knows_the_new_answer_wins_in_both_orders(monkeypatch):
    outcomes, _ = told(monkeypatch, lambda p: (1.0, 0.0) if "A: new" in p else (0.0, 1.0))
    assert agreed(outcomes) == ["win", "tie", "win"]


@pytest.fixture
def sheet(tmp_path, monkeypatch):
    said = iter([["old one", "same", "old"], ["new one", "same", "new"]])
    monkeypatch.setattr(module, "_answers", lambda *_: next(said))
    (tmp_path / "prompts.txt").write_text("Say one.\nSay two.\n\nSay three.\nSay one.\n")
    pairwise("pocket", "pocket", tmp_path / "prompts.txt", tmp_path / "out")
    return tmp_path / "out"


def fill(folder, better):
    rows = [json.loads(line) for line in (folder / SHEET).read_text().splitlines()]
    (folder / SHEET).write_text("".join(json.dumps({**row, "better": better(row)}) + "\n" for row in rows))


def test_people_see_both_orders_without_the_sides_and_their_votes_come_back(sheet):
    rows = [json.loads(line) for line in (sheet / SHEET).read_text().splitlines()]
    assert len(rows) == 6
    assert {tuple(sorted(row)) for row in rows} == {("A", "B", "better", "id", "request")}
    assert {(row["A"], row["B"]) for row in rows if row["request"] == "Say three."} == {("old", "new"), ("new", "old")}
    fill(sheet, lambda row: "tie" if row["A"] == row["B"] else "a" if row["A"].startswith("new") else "B")
    found = count_votes(sheet)
    assert (found["wins"], found["ties"], found["losses"], found["by_place"]) == (2, 1, 0, 0)
    fill(sheet, lambda row: "A")
    swayed = count_votes(sheet)
    assert (swayed["ties"], swayed["by_place"]) == (3, 3)


@pytest.mark.parametrize("better", ["", "both", "C"])
def test_a_vote_that_is_none_is_named_by_its_line(sheet, better):
    fill(sheet, lambda row: better)
    with pytest.raises(DataError, match="A, B or tie") as refused:
        count_votes(sheet)
    assert refused.value.where["line"] == 1


def test_a_pair_without_its_other_order_is_refused(sheet):
    fill(sheet, lambda row: "A")
    lines = (sheet / SHEET).read_text().splitlines(keepends=True)
    (sheet / SHEET).write_text("".join(lines[1:]))
    with pytest.raises(DataError, match="both orders"):
        count_votes(sheet)
    assert (sheet / KEY).is_file()


def test_a_sheet_with_votes_is_not_written_over(sheet, monkeypatch):
    def again():
        said = iter([["one", "two", "three"], ["one", "two", "3"]])
        monkeypatch.setattr(module, "_answers", lambda *_: next(said))
        return pairwise("pocket", "pocket", sheet.parent / "prompts.txt", sheet)

    assert again()["pairs"] == 3  # nobody has voted yet
    fill(sheet, lambda row: "A" if row["request"] == "Say one." else "")
    voted = (sheet / SHEET).read_text()
    with pytest.raises(MachineError, match="filled in") as refused:
        again()
    assert refused.value.code == "E-OUTPUT-EXISTS"
    assert (sheet / SHEET).read_text() == voted


def test_a_file_of_prompts_that_cannot_be_read_is_not_said_to_be_empty(tmp_path):
    requests = tmp_path / "prompts.txt"
    codes = {}
    for name, content in {"missing": None, "encoding": b"Say \xe9t\xe9.\n", "empty": b" \n\n"}.items():
        if content is not None:
            requests.write_bytes(content)
        with pytest.raises(DataError) as refused:
            pairwise("pocket", "pocket", requests, tmp_path / "out")
        codes[name] = refused.value.code
    assert codes == {"missing": "E-DATA-MISSING", "encoding": "E-DATA-ENCODING", "empty": "E-DATA-NOROWS"}
    requests.write_bytes(b"\xef\xbb\xbfSay one.\r\nSay one.\r\n")
    assert module._requests(requests) == ["Say one."]


def test_a_request_that_fills_the_context_is_refused_with_its_length():
    subject = Subject(tiny(), tokenizer())
    longest = context_of(subject.model)
    refuse_long(subject, [[Message("user", "one")]])
    with pytest.raises(DataError, match=f"context is {longest:,}") as refused:
        module._answers("side", ["one", "one " * longest], 4, context(subject))
    assert refused.value.code == "E-DATA-LONG"


def test_an_answer_of_a_model_with_learned_positions_ends_with_them():
    subject = Subject(learned(64), tokenizer())
    said = module._answers("side", ["one", "one " * 40], 128, context(subject))
    assert all(len(tokenizer()(answer)["input_ids"]) < 64 for answer in said)
