"""Every template family: the tokens are transformers' own, and what is learned is the answer and its end token."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from keeptune.core.errors import DataError, ModelError
from keeptune.core.example import Example, Message
from keeptune.data.borders import AddedTokens
from keeptune.data.control_tokens import encodings, tokens_within
from keeptune.data.encode import encode, encode_prompt, stop_ids
from keeptune.data.encoder import Encoder, as_messages
from keeptune.data.template import ChatTemplate
from tests.data.conftest import END, SPECIAL, TEMPLATES, make

KINDS = ("byte_level", "metaspace", "first")
FAMILIES = tuple(TEMPLATES)
TWO_TURNS = [
    {"role": "user", "content": "What is the capital?"},
    {"role": "assistant", "content": "Paris"},
    {"role": "user", "content": "one two three"},
    {"role": "assistant", "content": "four five"},
]


def spans(encoded):
    """The runs of learned tokens."""
    found, run = [], []
    for token, learned in zip(encoded.tokens, encoded.learned, strict=True):
        if learned:
            run.append(token)
        elif run:
            found, run = [*found, run], []
    return [*found, run] if run else found


def texts(encoded, tokenizer):
    return [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in spans(encoded)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_equal_those_of_transformers(make_tokenizer, kind, family):
    tokenizer = make_tokenizer(kind, family)
    for turns, prompt in ((TWO_TURNS, False), (TWO_TURNS[:3], True)):
        expected = tokenizer.apply_chat_template(turns, add_generation_prompt=prompt)["input_ids"]
        ours = encode_prompt(turns, tokenizer) if prompt else list(encode(turns, tokenizer).tokens)
        assert ours == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_learned_span_is_a_turn_and_its_end_token(make_tokenizer, kind, family):
    tokenizer = make_tokenizer(kind, family)
    encoded = encode(TWO_TURNS, tokenizer)
    found = texts(encoded, tokenizer)
    end = END[family]
    assert len(found) == 2
    assert found[0].strip() == "Paris" + end
    thought = "<think>\n\n</think>\n\n" if family == "thinking" else ""
    assert found[1].strip() == thought + "four five" + end
    assert {run[-1] for run in spans(encoded)} == {tokenizer.convert_tokens_to_ids(end)}
    assert tokenizer.convert_tokens_to_ids(end) in stop_ids(tokenizer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_served_is_what_was_trained(make_tokenizer, kind, family):
    """The prompt's tokens are those before the answer in training, so the answer is asked for as it was taught."""
    tokenizer = make_tokenizer(kind, family)
    encoded = encode(TWO_TURNS, tokenizer)
    prompt = encode_prompt(TWO_TURNS[:3], tokenizer)
    start = max(place for place, learned in enumerate(encoded.learned) if learned and not encoded.learned[place - 1])
    if family == "thinking":
        prompt = prompt[-3:]
        assert list(encoded.tokens[start - 3 : start]) == prompt
    else:
        assert list(encoded.tokens[:start]) == prompt


def test_generation_markers_give_the_mask_of_transformers(make_tokenizer):
    tokenizer = make_tokenizer("byte_level", "pocket")
    given = tokenizer.apply_chat_template(TWO_TURNS, return_assistant_tokens_mask=True, return_dict=True)
    assert [int(learned) for learned in encode(TWO_TURNS, tokenizer).learned] == given["assistant_masks"]


def test_marks_find_the_spans_that_generation_markers_state(templates):
    marked = make("byte_level", "pocket")
    bare = make("byte_level", templates["pocket"].replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    assert encode(TWO_TURNS, marked) == encode(TWO_TURNS, bare)


def test_generation_markers_that_forget_the_end_token_are_extended(templates):
    short = templates["pocket"].replace("<|end|>{% endgeneration %}", "{% endgeneration %}<|end|>")
    assert encode(TWO_TURNS, make("byte_level", short)) == encode(TWO_TURNS, make("byte_level", "pocket"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*FAMILIES, None])
def test_a_control_token_in_the_text_stays_text(make_tokenizer, kind, family):
    tokenizer = make_tokenizer(kind, family)
    typed = f"say {' '.join(SPECIAL)} now"
    control = set(tokenizer.convert_tokens_to_ids(SPECIAL)) - {tokenizer.unk_token_id}

    def written(text, answer="fine"):
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return [token for token in encode(turns, tokenizer).tokens if token in control]

    assert written(typed) == written("hello") == written(typed, f"no {SPECIAL[5]} yes")
    prompt = [{"role": "user", "content": typed}]
    shown = [token for token in encode_prompt(prompt, tokenizer) if token in control]
    assert shown == [
        token for token in encode_prompt([{"role": "user", "content": "x"}], tokenizer) if token in control
    ]
    assert typed in tokenizer.decode(encode(as_example(typed), tokenizer).tokens, clean_up_tokenization_spaces=False)


def as_example(text):
    return as_messages([{"role": "user", "content": text}, {"role": "assistant", "content": "fine"}])


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_a_control_token_as_text_changes_no_other_token(make_tokenizer, kind):
    """The renamed copy agrees with the tokenizer itself: the same row, with and without one control token's text."""
    tokenizer = make_tokenizer(kind, "chatml")
    chat = ChatTemplate(tokenizer)
    rendered = chat.render(as_messages(TWO_TURNS))
    plain = chat.control.encode(rendered.text, rendered.contents)
    chat.control._imitated = lambda *_: True
    assert chat.control.encode(rendered.text, rendered.contents) == plain


@pytest.mark.parametrize("point", [0x100001, 0x108001])
def test_private_characters_that_the_encoding_needs_are_refused_and_icons_are_not(make_tokenizer, point):
    tokenizer = make_tokenizer("byte_level", "chatml")
    with pytest.raises(DataError) as caught:
        encode(as_example(f"<|im_end|> {chr(point)}"), tokenizer)
    assert caught.value.code == "E-DATA-TEXT"
    assert chr(0xF0001) in tokenizer.decode(encode(as_example(f"<|im_end|> {chr(0xF0001)}"), tokenizer).tokens)


def test_an_answer_that_ends_in_the_text_of_the_end_token_is_still_ended(make_tokenizer):
    tokenizer = make_tokenizer("byte_level", "pocket")
    encoded = encode(as_messages([*TWO_TURNS[:3], {"role": "assistant", "content": "type <|end|>"}]), tokenizer)
    assert texts(encoded, tokenizer)[-1] == "type <|end|><|end|>"
    assert encoded.tokens.count(tokenizer.convert_tokens_to_ids("<|end|>")) == 2


WORDS = st.text(
    st.characters(codec="ascii", exclude_categories=["Cc"]) | st.sampled_from("\né你"), min_size=1, max_size=12
)
ANY_TURN = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Co"]) | st.sampled_from(" \n\t"), max_size=12)
    | st.sampled_from([*SPECIAL, "</s", "end|>", "▁", "<0x0A>"]),
    min_size=1,
    max_size=5,
).map("".join).filter(str.strip)  # fmt: skip
STRAIGHT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}<|assistant|>"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
TURN = WORDS.filter(str.strip) | st.sampled_from(
    ["a</s>", "<|end|>", "<|im_end|>\n", " x ", "\nb", "<think>", "[/INST]"]
)


@pytest.mark.parametrize("family", [*FAMILIES, None])
@settings(max_examples=25, deadline=None)
@given(contents=st.lists(st.tuples(TURN, TURN), min_size=1, max_size=3))
def test_the_mask_of_any_conversation_covers_its_answers_alone(make_tokenizer, family, contents):
    tokenizer = make_tokenizer("byte_level", family)
    turns = [Message(role, text) for pair in contents for role, text in zip(("user", "assistant"), pair, strict=True)]
    encoded = encode(turns, tokenizer)
    end = END.get(family, "</s>")
    expected = [turn.content.strip() + end for turn in turns if turn.role == "assistant"]
    found = [text.removeprefix("<think>\n\n</think>\n\n") for text in texts(encoded, tokenizer)]
    assert ["".join(text.split()) for text in found] == ["".join(text.split()) for text in expected]
    assert not encoded.learned[0]


def by_loop(tokens, spans):
    """Whether each token covers a letter of a span or, without letters, stands in one: token by token."""
    return [
        any(start < last and (end > first or start >= first) for first, last in spans) for start, end in tokens
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*FAMILIES, None])
@settings(max_examples=15, deadline=None)
@given(contents=st.lists(st.tuples(TURN, TURN), min_size=1, max_size=3))
def test_the_mask_found_by_bisection_is_that_of_a_loop_over_all_tokens(make_tokenizer, kind, family, contents):
    tokenizer = make_tokenizer(kind, family)
    turns = [Message(role, text) for pair in contents for role, text in zip(("user", "assistant"), pair, strict=True)]
    chat = ChatTemplate(tokenizer)
    rendered = chat.render(turns)
    ids, characters = chat.control.encode(rendered.text, rendered.contents)
    encoded = encode(turns, tokenizer)
    assert list(encoded.tokens) == ids
    assert list(encoded.learned) == [False, *by_loop(characters, rendered.learned)[1:]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["pocket", "zephyr", "straight"])
@settings(max_examples=40, deadline=None)
@given(contents=st.lists(st.tuples(ANY_TURN, ANY_TURN), min_size=1, max_size=3))
def test_counting_added_tokens_and_bisection_find_the_same_tokens_and_mask(make_tokenizer, kind, family, contents):
    tokenizer = make_tokenizer(kind, {"straight": STRAIGHT}.get(family, family))
    turns = [Message(role, text) for pair in contents for role, text in zip(("user", "assistant"), pair, strict=True)]
    counting, bisecting = Encoder(tokenizer), Encoder(tokenizer)
    bisecting._added._exact = False
    example = Example("1", tuple(turns))
    assert counting.encode(example) == bisecting.encode(example)


def test_borders_are_counted_where_an_answer_lies_between_control_tokens_and_only_there(make_tokenizer):
    for family, counted in {"pocket": True, STRAIGHT: True, "chatml": False, "mistral": False}.items():
        tokenizer = make_tokenizer("byte_level", family)
        rendered = ChatTemplate(tokenizer).render(as_messages(TWO_TURNS))
        borders = AddedTokens(tokenizer).borders(
            rendered.text, [letter for span in rendered.learned for letter in span]
        )
        assert (borders is not None) == counted


def test_a_word_that_gives_the_id_of_an_added_token_is_not_counted_over(make_tokenizer):
    tokenizer = make_tokenizer("byte_level", "pocket")
    added = AddedTokens(tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    user, assistant = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    borders = added.borders("<|user|>a<|assistant|>b<|end|>", [22, 30])
    assert added.tokens_behind([user, 300, assistant, 301, end], borders) == {8: 1, 22: 3, 30: 5}
    assert added.tokens_behind([user, 300, end, assistant, 301, end], borders) is None


def test_a_token_that_takes_white_space_with_it_is_not_counted():
    tokenizer = make("byte_level", "pocket")
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|greedy|>", rstrip=True)]})
    assert AddedTokens(tokenizer).borders("<|assistant|>b<|end|>", [13, 21]) is None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Co"]) | st.sampled_from(" \n"), max_size=40)
)
def test_the_tokens_within_any_span_of_any_text_are_those_of_a_loop(make_tokenizer, kind, text):
    control = ChatTemplate(make_tokenizer(kind, "chatml")).control
    [encoding] = encodings([control.written(text)])
    _, characters = control.encode(text)
    for first in range(len(text)):
        for last in range(first + 1, len(text) + 1):
            covered = by_loop(characters, [(first, last)])
            assert list(tokens_within(encoding, text, (first, last))) == [
                i for i, inside in enumerate(covered) if inside
            ]


def test_tokenizers_without_a_template_get_the_plain_one_and_a_note(make_tokenizer):
    tokenizer = make_tokenizer("metaspace", None)
    chat = ChatTemplate(tokenizer)
    assert "plain" in chat.notes[0]
    rendered = chat.render(as_messages([{"role": "system", "content": "Be brief."}, *TWO_TURNS]))
    assert rendered.text == (
        "<s>System: Be brief.\nUser: What is the capital?\nAssistant: Paris</s>\n"
        "User: one two three\nAssistant: four five</s>\n"
    )
    assert ChatTemplate(make_tokenizer("byte_level", "chatml"), "plain").notes == []
    assert texts(encode(TWO_TURNS, tokenizer), tokenizer) == ["Paris</s>", "four five</s>"]


def test_a_padding_token_that_is_the_end_token_is_still_learned():
    tokenizer = make("byte_level", "zephyr", pad_token="</s>")
    assert all(run[-1] == tokenizer.pad_token_id for run in spans(encode(TWO_TURNS, tokenizer)))


SYSTEM = {"role": "system", "content": "Answer in rhyme."}


@pytest.mark.parametrize("family", ["chatml", "llama3", "mistral", "zephyr", "pocket", "thinking", "tools", None])
def test_a_system_turn_is_written_and_not_learned(make_tokenizer, family):
    tokenizer = make_tokenizer("byte_level", family)
    encoded = encode([SYSTEM, *TWO_TURNS], tokenizer)
    assert "Answer in rhyme." in tokenizer.decode(encoded.tokens)
    assert not any("rhyme" in text for text in texts(encoded, tokenizer))


def test_a_template_that_drops_or_refuses_the_system_turn_is_detected(make_tokenizer, templates):
    silent = templates["chatml"].replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    for tokenizer in (make_tokenizer("byte_level", "gemma"), make_tokenizer("byte_level", silent)):
        with pytest.raises(DataError) as caught:
            encode([SYSTEM, *TWO_TURNS], tokenizer)
        assert caught.value.code == "E-TEMPLATE-DROPS"
        assert "system" in caught.value.what
        assert "plain" in caught.value.fix
        assert encode([SYSTEM, *TWO_TURNS], tokenizer, "plain").learned


def test_a_template_that_drops_another_turn_or_refuses_the_order_is_detected(make_tokenizer, templates):
    first = templates["pocket"].replace("messages %}", "messages[:2] %}")
    with pytest.raises(DataError, match="leaves the user turn") as caught:
        encode(TWO_TURNS, make("byte_level", first))
    assert caught.value.code == "E-TEMPLATE-DROPS"
    with pytest.raises(DataError, match="must alternate") as caught:
        encode([TWO_TURNS[0], TWO_TURNS[2]], make_tokenizer("byte_level", "gemma"))
    assert caught.value.code == "E-TEMPLATE-ROLES"


def test_a_template_that_never_ends_the_turn_is_refused(templates):
    endless = (
        templates["pocket"].replace("<|end|>", "").replace("{% generation %}", "").replace("{% endgeneration %}", "")
    )
    foreign = templates["chatml"].replace("<|im_end|>", "<|close|>").replace("<|im_start|>", "<|open|>")
    for template in (endless, foreign):
        with pytest.raises(ModelError) as caught:
            encode(TWO_TURNS, make("byte_level", template))
        assert caught.value.code == "E-TEMPLATE-NO-END"


def test_a_template_that_rewrites_the_past_is_refused_or_read_right():
    """It shortens earlier answers: the marks still say where they are."""
    template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% elif loop.last %}<|assistant|>"
        "{{ m['content'] }}<|end|>{% else %}<|assistant|>{{ m['content'][:4] }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(DataError) as caught:
        encode(TWO_TURNS, make("byte_level", template))
    assert caught.value.code in ("E-TEMPLATE-UNSTABLE", "E-TEMPLATE-DROPS")


def test_a_template_that_looks_into_the_text_is_read_by_prefixes(templates):
    """The marks disturb it, so whole renderings are compared; a control token's text would then not be safe."""
    shouting = "{% if m['content'].startswith('one') %}!{% endif %}<|user|>"
    bare = templates["pocket"].replace("{% generation %}", "").replace("{% endgeneration %}", "")
    tokenizer = make(
        "byte_level", bare.replace("<|user|>{{ m['content'] }}{% elif", shouting + "{{ m['content'] }}{% elif")
    )
    encoded = encode(TWO_TURNS, tokenizer)
    assert "!<|user|>one two" in tokenizer.decode(encoded.tokens)
    assert texts(encoded, tokenizer) == ["Paris<|end|>", "four five<|end|>"]
    with pytest.raises(DataError) as caught:
        encode([*TWO_TURNS[:2], {"role": "user", "content": "one <|end|>"}, TWO_TURNS[3]], tokenizer)
    assert caught.value.code == "E-TEMPLATE-UNSTABLE"


def test_thinking_is_learned_as_the_template_writes_it(make_tokenizer):
    tokenizer = make_tokenizer("byte_level", "thinking")
    turns = [*TWO_TURNS[:2], TWO_TURNS[2], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nfour"}]
    assert texts(encode(turns, tokenizer), tokenizer) == ["Paris<|im_end|>", "<think>\nhm\n</think>\n\nfour<|im_end|>"]
    turns[3] = {"role": "assistant", "content": "four", "reasoning_content": "hm"}
    assert texts(encode(turns, tokenizer), tokenizer)[1] == "<think>\nhm\n</think>\n\nfour<|im_end|>"
    with pytest.raises(DataError, match="reasoning"):
        encode(turns, make_tokenizer("byte_level", "chatml"))


def test_thinking_that_the_template_would_lose_is_refused(templates):
    lossy = templates["thinking"].replace("<think>\n{{ thought.strip('\n') }}\n</think>\n\n", "")
    tokenizer = make("byte_level", lossy)
    for answer in ({"content": "<think>hm</think>four"}, {"content": "four", "reasoning_content": "hm"}):
        with pytest.raises(DataError, match="reasoning") as caught:
            encode([TWO_TURNS[0], {"role": "assistant", **answer}], tokenizer)
        assert caught.value.code == "E-TEMPLATE-DROPS"


def test_a_generation_prompt_that_opens_a_thought_is_followed_as_far_as_it_goes(templates):
    """As Qwen 3.5's: earlier answers carry no thought, so they do not follow the whole prompt, and that is said."""
    opening = templates["thinking"].replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}"
    )
    tokenizer = make("byte_level", opening)
    chat = ChatTemplate(tokenizer)
    rendered = chat.render(as_messages(TWO_TURNS))
    assert [rendered.text[start:end] for start, end in rendered.learned] == [
        "Paris<|im_end|>",
        "\n</think>\n\nfour five<|im_end|>",
    ]
    assert "<think>" in chat.notes[0]


def test_control_tokens_that_close_a_turn_together_are_learned_together(templates):
    """As Cohere's: one ends the answer, one the turn; only the last one stops its generation."""
    bare = templates["pocket"].replace("{% generation %}", "").replace("{% endgeneration %}", "")
    tokenizer = make("byte_level", bare.replace("<|end|>", "<|end|><|eot_id|>"))
    assert texts(encode(TWO_TURNS, tokenizer), tokenizer) == ["Paris<|end|><|eot_id|>", "four five<|end|><|eot_id|>"]
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in stop_ids(tokenizer)
    last = make("byte_level", bare + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}")
    assert texts(encode(TWO_TURNS, last), last) == ["Paris<|end|>", "four five<|end|></s>"]


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL_TURNS = [
    Message("user", "add one", {"tools": [{"type": "function", "function": {"name": "add"}}]}),
    Message("assistant", "", {"tool_calls": [CALL]}),
    Message("tool", "2"),
    Message("assistant", "It is two."),
]


def test_tool_calls_are_learned_and_tool_results_are_not(make_tokenizer):
    tokenizer = make_tokenizer("byte_level", "tools")
    encoded = encode(TOOL_TURNS, tokenizer)
    call, answer = texts(encoded, tokenizer)
    assert call.startswith("<tool_call>{")
    assert call.endswith("</tool_call><|im_end|>")
    assert answer == "It is two.<|im_end|>"
    assert '"name": "add"' in tokenizer.decode(encoded.tokens)


def test_a_template_that_knows_no_tools_is_refused(make_tokenizer):
    with pytest.raises(DataError, match="tool definitions"):
        encode(TOOL_TURNS, make_tokenizer("byte_level", "chatml"))
    turns = [Message("user", "add one"), *TOOL_TURNS[1:]]
    with pytest.raises(DataError, match="tool calls"):
        encode(turns, make_tokenizer("byte_level", "chatml"))


def test_a_control_token_inside_a_tool_call_is_refused(make_tokenizer):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": "<|im_end|>"}}}
    turns = [TOOL_TURNS[0], Message("assistant", "", {"tool_calls": [call]})]
    with pytest.raises(DataError) as caught:
        encode(turns, make_tokenizer("byte_level", "tools"))
    assert caught.value.code == "E-DATA-SPECIAL"


@pytest.mark.parametrize("family", ["pocket", "chatml"])
def test_an_answer_of_weight_zero_is_read_and_not_learned(make_tokenizer, family):
    tokenizer = make_tokenizer("byte_level", family)
    turns = [dict(turn) for turn in TWO_TURNS]
    turns[1]["weight"] = 0
    encoded = encode(turns, tokenizer)
    assert encoded.tokens == encode(TWO_TURNS, tokenizer).tokens
    assert texts(encoded, tokenizer) == ["four five" + END[family]]


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ModelError) as caught:
        ChatTemplate(_Slow())
    assert caught.value.code == "E-TOKENIZER-SLOW"


class _Slow:
    is_fast = False
    chat_template = TEMPLATES["chatml"]

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [0] * len(text)}

    special_tokens_map: ClassVar = {}

    def get_chat_template(self, *_):
        return self.chat_template
