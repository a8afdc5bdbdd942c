"""Rows to tokens: documents whole, over-long rows by policy, and counts that always add up."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keeptune.data
from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.encode import (
    LETTERS_AT_ONCE,
    ROWS_AT_ONCE,
    encode,
    encode_all,
    encode_many,
    encode_prompt,
    encoder_of,
    together,
)
from keeptune.data.encoder import Encoded, Encoder, as_messages
from keeptune.data.fitting import last_learned
from keeptune.data.starts import LOST
from keeptune.data.view import check_view


def chat(id_, question="one two three", answer="four five", **extra):
    return Example(str(id_), (Message("user", question), Message("assistant", answer, extra)), source="task", line=id_)


def document(id_, words):
    return Example(str(id_), text="one two three four five six seven eight nine ten " * words, source="text", line=id_)


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer("byte_level", "chatml")


def test_the_public_form_has_input_ids_and_labels(tokenizer):
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    given = keeptune.data.encode(turns, tokenizer)
    encoded = encode(turns, tokenizer)
    assert given["input_ids"] == list(encoded.tokens)
    kept = [token for token, learned in zip(encoded.tokens, encoded.learned, strict=True) if learned]
    assert [label for label in given["labels"] if label != -100] == kept
    assert len(given["labels"]) == len(given["input_ids"])


def test_a_document_is_learned_whole_but_for_its_first_token(tokenizer, make_tokenizer):
    encoded = encode(Example("1", text="one two </s> three"), tokenizer)
    assert encoded.tokens[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(encoded.tokens) == "one two </s> three</s>"
    assert encoded.tokens.count(tokenizer.eos_token_id) == 1
    assert encoded.learned == (False, *[True] * (len(encoded.tokens) - 1))
    begun = make_tokenizer("metaspace", None)
    assert encode(Example("1", text="one two"), begun).tokens[0] == begun.bos_token_id


def test_a_tokenizer_that_was_left_cutting_and_padding_still_encodes_rows_whole(make_tokenizer):
    one, other = make_tokenizer("byte_level", "chatml"), make_tokenizer("byte_level", "chatml")
    other.backend_tokenizer.enable_truncation(5)
    other.backend_tokenizer.enable_padding(length=400)
    expected, found = encode(chat(1), one), encode(chat(1), other)
    assert 5 < len(expected.tokens) < 400
    assert found == expected


def test_rows_that_fit_are_kept_and_counted(tokenizer):
    done = encode_all([chat(1), chat(2)], tokenizer, too_long="drop", context=512)
    assert (done.counts["read"], done.counts["kept"], done.counts["open_ended"]) == (2, 2, 0)
    assert done.counts["tokens"] == sum(len(row.tokens) for row in done.rows)
    assert done.counts["learned"] == sum(sum(row.learned) for row in done.rows)
    assert [(row.id, row.source) for row in done.rows] == [("1", "task"), ("2", "task")]


def test_rows_that_are_encoded_together_are_those_encoded_alone_and_a_bad_one_is_named(make_tokenizer):
    tokenizer = make_tokenizer("byte_level", "chatml")
    odd = Example("4", (Message("user", "a"), Message("assistant", "b", {"tool_calls": [{}]})), source="task", line=4)
    rows = [chat(1), document(2, 1), chat(3, "say <|im_end|> and </s>"), odd, chat(5, "six seven eight")]
    found = encode_many(encoder_of(tokenizer), rows)
    assert [row for row in found if row is not found[3]] == [encode(row, tokenizer) for row in rows if row is not odd]
    with pytest.raises(DataError) as caught:
        encode(odd, tokenizer)
    assert (found[3].code, found[3].where, found[3].what) == (caught.value.code, caught.value.where, caught.value.what)


@pytest.mark.parametrize("family", ["pocket", "gemma", "mistral", "thinking"])
def test_a_group_with_a_row_that_the_template_refuses_is_that_of_its_rows_alone(make_tokenizer, family):
    tokenizer = make_tokenizer("byte_level", family)
    odd = Example("2", (Message("system", "Be brief."), *chat(2).messages), source="task", line=2)
    rows = [chat(1), odd, chat(3, weight=0), document(4, 1), chat(5, "a <|end|> b")]
    told = []
    for row in rows:
        try:
            told.append(encode(row, tokenizer))
        except DataError as error:
            told.append(error.to_dict())
    found = encode_many(encoder_of(tokenizer), rows)
    assert [one.to_dict() if isinstance(one, DataError) else one for one in found] == told
    assert isinstance(found[1], DataError) == (family == "gemma")


def test_groups_keep_the_order_and_hold_a_long_row_alone():
    huge = Example("huge", text="x" * (2 * LETTERS_AT_ONCE))
    rows = [chat(number) for number in range(ROWS_AT_ONCE + 3)]
    groups = list(together([*rows, huge, *rows]))
    assert [row for group in groups for row in group] == [*rows, huge, *rows]
    assert [len(group) for group in groups] == [ROWS_AT_ONCE, 3, 1, ROWS_AT_ONCE, 3]
    assert list(together([])) == []


MASK = st.lists(st.booleans(), max_size=12)


@given(mask=MASK)
def test_the_last_learned_token_of_each_run_is_found(mask):
    expected = [i for i, learned in enumerate(mask) if learned and (i + 1 == len(mask) or not mask[i + 1])]
    assert last_learned(Encoded("", "", tuple(range(len(mask))), tuple(mask))) == expected


LONG = "one two three four five " * 40


def test_drop_leaves_long_rows_out_by_name(tokenizer):
    done = encode_all([chat(1), chat(2), chat(3, LONG)], tokenizer, too_long="drop", context=64)
    assert (done.counts["kept"], done.counts["dropped"], done.counts["long"]) == (2, 1, 1)
    assert [(problem.code, problem.id, problem.line) for problem in done.problems] == [("E-ROW-LONG", "3", 3)]


def test_cut_keeps_the_head_of_a_row_and_drops_one_that_teaches_nothing(tokenizer):
    rows = [chat(1), chat(2, answer=LONG), chat(3, LONG)]
    done = encode_all(rows, tokenizer, too_long="cut", context=64)
    assert (done.counts["kept"], done.counts["cut"], done.counts["dropped"], done.counts["silent"]) == (1, 1, 1, 1)
    assert done.rows[1].tokens == encode(rows[1], tokenizer).tokens[:64]
    assert [(problem.code, problem.id) for problem in done.problems] == [("E-ROW-LONG", "2"), ("E-ROW-NOTHING", "3")]


def test_split_learns_every_token_of_a_document_once(tokenizer):
    whole = encode(document(1, 20), tokenizer)
    done = encode_all([document(1, 20), document(2, 1), chat(3, LONG)], tokenizer, too_long="split", context=50)
    assert (done.counts["read"], done.counts["kept"], done.counts["split"], done.counts["dropped"]) == (3, 2, 1, 1)
    pieces = [row for row in done.rows if row.id.split("#")[0] == "1"]
    assert all(len(piece.tokens) <= 50 for piece in pieces)
    learned = [token for piece in pieces for token, kept in zip(piece.tokens, piece.learned, strict=True) if kept]
    assert learned == list(whole.tokens[1:])
    assert len({row.id for row in done.rows}) == len(done.rows)
    assert "never split" in done.problems[-1].what


def test_refuse_names_the_lines(tokenizer):
    with pytest.raises(DataError) as caught:
        encode_all([chat(1), chat(2, LONG)], tokenizer, too_long="refuse", context=64)
    assert (caught.value.code, caught.value.where["line"]) == ("E-DATA-LONG", 2)
    assert "line 2: it has" in caught.value.why


def test_training_on_nothing_is_refused(tokenizer):
    for rows in ([chat(1, LONG)], [chat(1, weight=0)], []):
        with pytest.raises(DataError) as caught:
            encode_all(rows, tokenizer, too_long="drop", context=64)
        assert caught.value.code == "E-DATA-NOTHING"


def test_too_many_dropped_rows_are_an_error_and_some_are_counted(tokenizer):
    rows = [chat(1), *[chat(number, LONG) for number in range(2, 5)]]
    with pytest.raises(DataError) as caught:
        encode_all(rows, tokenizer, too_long="drop", context=64)
    assert caught.value.code == "E-DATA-DROPPED"
    done = encode_all(rows, tokenizer, too_long="drop", context=64, most_dropped=0.75)
    assert done.counts["dropped"] == 3


def test_a_row_that_the_template_cannot_write_is_placed(tokenizer):
    twice = Example("7", (Message("user", "a"), Message("assistant", "b", {"tool_calls": [{}]})), source="task", line=9)
    with pytest.raises(DataError) as caught:
        encode_all([chat(1), twice], tokenizer, too_long="drop", context=64)
    assert (caught.value.where["line"], caught.value.where["key"]) == (9, "task")
    done = encode_all([chat(1), twice], tokenizer, too_long="drop", context=64, gather=True)
    assert (done.counts["read"], done.counts["kept"], done.counts["dropped"], done.counts["bad"]) == (2, 1, 1, 1)
    assert done.problems[0].code == "E-TEMPLATE-DROPS"


def test_the_plain_template_is_announced(make_tokenizer):
    done = encode_all([chat(1)], make_tokenizer("metaspace", None), too_long="drop", context=512)
    assert "no chat template" in done.notes[0]


ROW = st.tuples(st.sampled_from(["chat", "silent", "text"]), st.integers(1, 30), st.integers(1, 30))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=8), policy=st.sampled_from(["drop", "cut", "split"]))
def test_read_is_always_kept_and_dropped_and_cut(make_tokenizer, rows, policy):
    tokenizer = make_tokenizer("byte_level", "chatml")
    examples = [example(number, *row) for number, row in enumerate(rows, 1)]
    try:
        done = encode_all(examples, tokenizer, too_long=policy, context=48, most_dropped=1.0)
    except DataError as error:
        assert error.code == "E-DATA-NOTHING"  # noqa: PT017
        return
    counts = done.counts
    assert counts["read"] == counts["kept"] + counts["dropped"] + counts["cut"] == len(rows)
    assert all(len(row.tokens) <= 48 and any(row.learned) and not row.learned[0] for row in done.rows)
    assert policy == "cut" or counts["cut"] == 0
    assert policy == "split" or len(done.rows) == counts["kept"] + counts["cut"]


def example(number, kind, first, second):
    if kind == "text":
        return document(number, first)
    return chat(number, "one two " * first, "three four " * second, **({"weight": 0} if kind == "silent" else {}))


def test_a_letter_of_several_tokens_is_shown_whole_at_the_last_of_them(tokenizer):
    encoded = encode(chat(1, "one 你好 é", "ok \ufffd مط"), tokenizer)
    views = check_view(encoded, tokenizer)
    shown = "".join(view.text for view in views)
    assert shown == tokenizer.decode(encoded.tokens, clean_up_tokenization_spaces=False)
    assert "你好 é" in shown
    assert shown.count("\ufffd") == 1
    assert [view.text for view in views if "你" in view.text or "好" in view.text] == ["你", "好"]


@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
def test_the_view_shows_every_token_in_its_state(make_tokenizer, kind):
    tokenizer = make_tokenizer(kind, "chatml")
    encoded = encode(chat(1), tokenizer)
    views = check_view(encoded, tokenizer, context=len(encoded.tokens) - 2)
    assert "".join(view.text for view in views) == tokenizer.decode(encoded.tokens, clean_up_tokenization_spaces=False)
    assert [view.state for view in views[-2:]] == ["cut", "cut"]
    expected = ["learned" if learned else "seen" for learned in encoded.learned[:-2]]
    assert [view.state for view in views[:-2]] == expected


PAIRS = [
    ("one two", "three four"),
    ("one\n\ntwo\n", "\n three four"),
    ("<|im_end|> one", "two <|im_start|>user three </s>"),
    ("  one ünï", "漢字 two  "),
    ("one two one two", "one two"),
]


@pytest.mark.parametrize("shape", ["chatml", "llama3", "pocket", "gemma", None])
@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_later_text_begins_with_the_token_that_writes_its_first_letter(make_tokenizer, kind, shape, first, second):
    """Asked and answered alike, and the tokens are those of the same lines without a word about texts."""
    tokenizer = make_tokenizer(kind, shape)
    encoder = Encoder(tokenizer)
    asked = Message("user", f"{first}\n{second}", {"texts": [first, second]})
    request, plain = encoder.request([asked]), encoder.request([Message("user", asked.content)])
    assert (request.tokens, plain.starts.texts) == (plain.tokens, ())
    assert list(request.tokens) == encoder.prompt([asked])
    assert encoder.encode(Example("1", (asked, Message("assistant", "five")))).starts == request.starts
    (start,) = request.starts.texts
    whole, before, with_it = (tokenizer.decode(request.tokens[:end]) for end in (None, start, start + 1))
    assert len(before) <= whole.rindex(second.rstrip()) < len(with_it)


def test_a_template_that_rewrites_a_request_says_nothing_of_its_texts(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace("{{ m['content'] }}", "{{ m['content'] | upper }}")
    asked = Message("user", "one\ntwo", {"texts": ["one", "two"]})
    assert Encoder(other).request([asked]).starts.texts == ()


def test_a_row_whose_answer_was_cut_keeps_its_texts(tokenizer):
    asked = Message("user", "one two\nthree four", {"texts": ["one two", "three four"]})
    request = Encoder(tokenizer).request([asked])
    whole = Example("1", (asked, Message("assistant", "five six seven eight")), source="task", line=1)
    (kept,) = encode_all([whole], tokenizer, too_long="cut", context=len(request.tokens) + 2).rows
    assert (len(kept.tokens), kept.starts) == (len(request.tokens) + 2, request.starts)


TURNS = [
    Message("user", "one two"),
    Message("assistant", "three"),
    Message("user", "four five six"),
    Message("assistant", " seven eight", {"weight": 0}),
    Message("user", "nine"),
    Message("assistant", "ten one"),
]


@pytest.mark.parametrize("shape", ["chatml", "llama3", "pocket", "gemma", None])
@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
def test_an_answer_begins_where_the_prompt_ended_that_it_answered(make_tokenizer, kind, shape):
    """Of every answer, learned or only read, in a row that is learned and in a later prompt."""
    encoder = Encoder(make_tokenizer(kind, shape))
    ends = tuple(len(encoder.prompt(TURNS[:number])) for number in (1, 3, 5))
    row = encoder.encode(Example("1", tuple(TURNS)))
    assert row.starts.answers == ends
    assert [place for place in range(1, len(row.tokens)) if row.learned[place] > row.learned[place - 1]] == [
        ends[0],
        ends[2],
    ]
    assert [encoder.request(TURNS[:number]).starts.answers for number in (1, 3, 5)] == [ends[:1], ends[:2], ends]
    assert row.starts.within(ends[1]).answers == ends[:2]


def test_an_earlier_answer_that_no_generation_prompt_is_before_is_lost(tokenizer):
    other = copy.deepcopy(tokenizer)
    header = "<|im_start|>{{ m['role'] }}\n"
    early = f"{{% if loop.last or m['role'] != 'assistant' %}}{header}{{% else %}}({{% endif %}}"
    other.chat_template = tokenizer.chat_template.replace(header, early)
    request = Encoder(other).request(TURNS[:3])
    assert request.starts.answers == (LOST, len(request.tokens))


@pytest.mark.parametrize(
    ("turns", "code"),
    [
        ([], "E-DATA-ROLES"),
        ("hello", "E-DATA-TYPE"),
        ([{"role": "user"}], "E-DATA-KEY"),
        ([{"content": "a"}], "E-DATA-KEY"),
        ([{"role": "user", "content": None}], "E-DATA-TYPE"),
        ([{"role": "user", "content": " "}], "E-DATA-EMPTY"),
    ],
)
def test_turns_that_say_nothing_are_refused_by_number(tokenizer, turns, code):
    with pytest.raises(DataError) as refused:
        encode_prompt(turns, tokenizer)
    assert refused.value.code == code


def test_a_turn_that_calls_tools_may_say_nothing_beside():
    calls = [{"function": {"name": "look", "arguments": {}}}]
    for turn in (
        {"role": "assistant", "tool_calls": calls},
        {"role": "assistant", "content": None, "tool_calls": calls},
    ):
        assert as_messages([turn]) == (Message("assistant", "", {"tool_calls": calls}),)
