"""Rows that were encoded once are read again, the same to the last field, until anything that decides them changes."""

from __future__ import annotations

import dataclasses

import pytest

from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.encode import encode_all
from keeptune.models.load import look
from keeptune.recipes import encoding

SETTINGS = {"too_long": "cut", "context": 90, "template": None, "kind": "decoder"}


def conversation(number: int) -> Example:
    words = "word " * (1 + number % 90)
    turns = (Message("user", f"Say {number}: {words}"), Message("assistant", f"{number} ünïcode"))
    return Example(f"row-{number}", turns, source="task", line=number + 1)


def pair(number: int) -> Example:
    texts = ["one " * (1 + number % 90), f"is {number}"]
    return Example(f"row-{number}", (Message("user", "\n".join(texts), {"texts": texts}), Message("assistant", "no")))


ROWS = [conversation(number) for number in range(encoding.FEWEST)]


@pytest.fixture(scope="module")
def tokenizer():
    return look("pocket")[1]


@pytest.fixture
def counted(monkeypatch):
    """How many times rows were encoded."""
    calls = []
    monkeypatch.setattr(encoding, "encode_all", lambda *a, **k: calls.append(1) or encode_all(*a, **k))
    return calls


@pytest.mark.parametrize("rows", [
    ROWS,
    [Example(f"d{n}", text="word " * (1 + n % 130), source="text") for n in range(encoding.FEWEST)],
    [pair(number) for number in range(encoding.FEWEST)],
], ids=["conversations", "documents", "pairs"])  # fmt: skip
@pytest.mark.parametrize("too_long", ["cut", "split", "drop"])
def test_what_is_read_is_what_was_encoded(tmp_path, tokenizer, counted, rows, too_long):
    settings = {**SETTINGS, "too_long": too_long}
    first, second = (encoding.encoded_once(rows, tokenizer, tmp_path, **settings) for _ in range(2))
    assert first == second == encode_all(rows, tokenizer, **settings)
    assert len(counted) == 1
    assert first.problems


@pytest.mark.parametrize("change", [
    {"context": 91}, {"too_long": "split"}, {"kind": "encoder_decoder"},
], ids=lambda change: next(iter(change)))  # fmt: skip
def test_another_setting_is_another_entry(tmp_path, tokenizer, counted, change):
    for settings in (SETTINGS, {**SETTINGS, **change}):
        found = encoding.encoded_once(ROWS, tokenizer, tmp_path, **settings)
        assert found == encode_all(ROWS, tokenizer, **settings)
    assert len(counted) == 2


@pytest.mark.parametrize("change", [
    {"id": "other"}, {"source": "other"}, {"line": 7}, {"messages": (Message("user", "a"), Message("assistant", "b"))},
], ids=lambda change: next(iter(change)))  # fmt: skip
def test_one_row_that_changes_is_another_entry(tmp_path, tokenizer, counted, change):
    rows = [*ROWS[:-1], dataclasses.replace(ROWS[-1], **change)]
    for some in (ROWS, rows):
        assert encoding.encoded_once(some, tokenizer, tmp_path, **SETTINGS) == encode_all(some, tokenizer, **SETTINGS)
    assert len(counted) == 2


def test_a_damaged_entry_is_encoded_again(tmp_path, tokenizer, counted):
    encoding.encoded_once(ROWS, tokenizer, tmp_path, **SETTINGS)
    (entry,) = (tmp_path / "encoded").iterdir()
    entry.write_bytes(entry.read_bytes()[:-3])
    assert encoding.encoded_once(ROWS, tokenizer, tmp_path, **SETTINGS) == encode_all(ROWS, tokenizer, **SETTINGS)
    assert len(counted) == 2


def test_few_rows_and_refused_rows_leave_nothing_behind(tmp_path, tokenizer):
    encoding.encoded_once(ROWS[:10], tokenizer, tmp_path, **SETTINGS)
    with pytest.raises(DataError):
        encoding.encoded_once(ROWS, tokenizer, tmp_path, **{**SETTINGS, "too_long": "refuse"})
    assert not any(tmp_path.iterdir())
