"""Rows of each format become the turns that their users mean."""

from __future__ import annotations

import pytest

from keeptune.core.errors import DataError, RecipeError
from keeptune.core.example import TEXTS
from keeptune.core.spec import validate
from keeptune.data.formats import Format
from keeptune.data.place import Place

PLACE = Place("rows.jsonl", 3)


def read(row, name, **settings):
    return validate(Format, {"format": name, "path": "rows.jsonl", **settings}).read_row(row, PLACE)


def turns(example):
    return [(turn.role, turn.content) for turn in example.messages]


def refused(row, name, **settings):
    with pytest.raises(DataError) as caught:
        read(row, name, **settings)
    assert caught.value.where["line"] == 3
    return caught.value


@pytest.mark.parametrize("name", Format.names())
def test_a_format_survives_the_round_trip_through_its_plain_data(name):
    given = {"format": name, "path": "rows.jsonl"} if Format.find(name).from_file else {"format": name}
    made = validate(Format, given)
    assert made.to_dict()["format"] == name
    assert validate(Format, made.to_dict()) == made
    assert len(type(made).model_fields) <= 12


def test_a_format_without_its_file_or_with_an_unknown_setting_is_refused():
    with pytest.raises(RecipeError, match="path"):
        validate(Format, {"format": "alpaca"})
    with pytest.raises(RecipeError, match="promtp"):
        validate(Format, {"format": "prompt_completion", "path": "a", "promtp": "b"})
    with pytest.raises(RecipeError, match="Did you mean 'alpaca'"):
        validate(Format, {"format": "alpca", "path": "a"})


def test_alpaca_joins_instruction_and_input():
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "license": "MIT", "id": "x"}
    example = read(row, "alpaca")
    assert turns(example) == [("user", "Add.\n\n1 2"), ("assistant", "3")]
    assert (example.licence, example.id, example.line) == ("MIT", "x", 3)
    for absent in ("", None, "  "):
        assert turns(read({**row, "input": absent}, "alpaca"))[0] == ("user", "Add.")
    assert turns(read({**row, "system": "Be brief."}, "alpaca"))[0] == ("system", "Be brief.")
    assert turns(read({"q": "Add.", "output": "3"}, "alpaca", instruction="q"))[0] == ("user", "Add.")


def test_alpaca_reads_earlier_turns():
    row = {"instruction": "c", "output": "d", "history": [["a", "b"]]}
    assert turns(read(row, "alpaca")) == [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert refused({**row, "history": [["a"]]}, "alpaca").code == "E-DATA-TYPE"
    assert refused({**row, "history": [["a", ""]]}, "alpaca").code == "E-DATA-EMPTY"
    assert refused({**row, "instruction": ""}, "alpaca").code == "E-DATA-EMPTY"


def test_both_message_shapes_give_the_same_turns():
    openai = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    sharegpt = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"}
    assert turns(read(openai, "messages")) == [("user", "a"), ("assistant", "b")]
    assert turns(read(sharegpt, "messages")) == [("system", "s"), ("user", "a"), ("assistant", "b")]


def test_text_parts_are_joined_and_images_refused():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]}
    assert turns(read(row, "messages"))[0] == ("user", "ab")
    parts.append({"type": "image_url", "image_url": "x"})
    assert "image_url" in refused(row, "messages").what


def test_tool_calls_thinking_and_tools_are_kept_for_the_template():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    row = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "why"},
            {"role": "tool", "content": "4", "tool_call_id": "1"},
            {"role": "assistant", "content": "four", "weight": 1},
        ],
    }
    example = read(row, "messages")
    assert example.messages[0].extra["tools"] == row["tools"]
    assert example.messages[1].extra == {"tool_calls": [call], "reasoning_content": "why"}
    assert example.messages[2].to_dict() == {"role": "tool", "content": "4", "tool_call_id": "1"}


U, A, S = ({"role": role, "content": "x"} for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("given", "code", "word"),
    [
        ([U, {"role": "asistant", "content": "x"}], "E-DATA-ROLES", "asistant"),
        ([U, A, A], "E-DATA-ROLES", "two turns of the assistant"),
        ([U, U, A], "E-DATA-ROLES", "two turns of the user"),
        ([A, U, A], "E-DATA-ROLES", "starts with the assistant"),
        ([U, A, S, U, A], "E-DATA-ROLES", "only the first turn"),
        ([U], "E-DATA-ROLES", "nothing to learn"),
        ([S, U], "E-DATA-ROLES", "nothing to learn"),
        ([U, {"role": "assistant", "content": " "}], "E-DATA-EMPTY", "white space"),
        ([U, {"role": "assistant"}], "E-DATA-KEY", "content"),
        ([U, {"role": "assistant", "content": None}], "E-DATA-NULL", "null"),
        ([U, {"role": "assistant", "content": 3}], "E-DATA-TYPE", "not text"),
        ([U, {"role": "assistant", "content": "x", "weight": 0.5}], "E-DATA-TYPE", "weight"),
        ([U, "hello"], "E-DATA-TYPE", "not a turn"),
        ([], "E-DATA-TYPE", "is empty"),
        ([U, A] * 5001, "E-DATA-ROWSIZE", "10002 turns"),
        ("hello", "E-DATA-TYPE", "not a list"),
    ],
)
def test_turns_in_a_wrong_order_or_shape_are_refused(given, code, word):
    error = refused({"messages": given}, "messages")
    assert error.code == code
    assert word in str(error)


def test_a_last_turn_of_the_user_is_read():
    assert len(read({"messages": [S, U, A, U]}, "messages").messages) == 4


def test_answers_that_are_numbers_are_learned_as_written_or_in_words_when_the_recipe_says_so():
    row = {"text": "a", "label": 1}
    columns = {"prompt": "text", "completion": "label"}
    error = refused(row, "prompt_completion", **columns)
    assert (error.code, error.where["key"]) == ("E-DATA-TYPE", "label")
    assert "numbers: true" in error.fix
    for value, text in ((1, "1"), (0.5, "0.5"), (True, "true"), ("yes", "yes")):
        assert read({"text": "a", "label": value}, "prompt_completion", **columns, numbers=True).target == text
    words = {0: "no", 1: "yes"}
    assert read(row, "prompt_completion", **columns, labels=words).target == "yes"
    assert read({"text": "a", "label": "0"}, "prompt_completion", **columns, labels=words).target == "no"
    error = refused({"text": "a", "label": 2}, "prompt_completion", **columns, labels=words)
    assert (error.code, error.where["key"]) == ("E-DATA-LABELS", "label")
    assert refused({"text": "a", "label": None}, "prompt_completion", **columns, numbers=True).code == "E-DATA-NULL"


def test_prompt_completion_takes_columns_of_any_name():
    row = {"text": "where is my card", "label": "card_arrival", "hint": "Name the intent."}
    example = read(row, "prompt_completion", prompt="text", completion="label", system="hint")
    assert turns(example) == [
        ("system", "Name the intent."),
        ("user", "where is my card"),
        ("assistant", "card_arrival"),
    ]
    assert refused(row, "prompt_completion", prompt="text", completion="label", system="hnt").code == "E-DATA-KEY"


def test_a_prompt_may_be_a_text_with_columns_in_braces():
    row = {"text": "a {b} card", "label": "yes", "second part": "it came"}

    def asked(prompt):
        (turn, _) = read(row, "prompt_completion", prompt=prompt, completion="label").messages
        return turn.content, turn.extra

    assert asked("Name the intent: {text}") == ("Name the intent: a {b} card", {})
    assert asked("{text}\nDoes {second part} follow from {text}?") == (
        "a {b} card\nDoes it came follow from a {b} card?", {},
    )  # fmt: skip
    assert asked("text") == ("a {b} card", {})
    assert asked(["text", "second part"]) == ("a {b} card\nit came", {TEXTS: ["a {b} card", "it came"]})
    wrong = refused(row, "prompt_completion", prompt="Name it: {txt}", completion="label")
    assert (wrong.code, wrong.where["key"]) == ("E-DATA-KEY", "txt")


def test_plain_text_is_a_document():
    example = read({"text": " Once.\n", "title": "t"}, "plain_text")
    assert (example.text, example.messages) == (" Once.\n", ())
