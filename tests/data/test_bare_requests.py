"""Requests that do not say what is wanted of them, as `init` and `check` tell them."""

from __future__ import annotations

import pytest

from keeptune.core.example import Example, Message
from keeptune.data.bare_requests import asked_bare


def ask(question):
    return Example("1", (Message("user", question), Message("assistant", "transfer")))


QUESTIONS = ["where is my card", "who can top it up for me", "may I leave", "how long does a transfer take to come"]


@pytest.mark.parametrize(("written", "bare"), [
    ("{}", True),
    ("Which intent is this?\n{}", False),
    ("{}\nWhich intent is this?", False),
    ("Text: {}", False),
    ("{} card, transfer or leave?", False),
], ids=["bare", "before", "behind", "frame", "labels"])  # fmt: skip
def test_requests_are_bare_where_nothing_in_them_says_that_a_label_is_wanted(written, bare):
    rows = [ask(written.format(text)) for text in QUESTIONS]
    assert asked_bare(rows, ["transfer", "leave"]) is bare
    told = [Example(row.id, (Message("system", "Name the intent."), *row.messages)) for row in rows]
    assert not asked_bare(told, ["transfer", "leave"])
    assert not asked_bare([], ["transfer"])
    assert not asked_bare([Example("1", text="a")], ["transfer"])
