"""Formats whose files are not one example a row: trees, tasks, posts, treebanks, pairs, transcripts."""

# ruff: noqa: E501

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeptune.core.errors import DataError
from keeptune.core.spec import validate
from keeptune.data.formats import Format
from keeptune.data.guess import guess_format
from keeptune.data.html_text import html_to_text
from keeptune.data.json_rows import Row
from keeptune.data.place import Place
from keeptune.data.read import read_examples


def examples(folder, content, name="rows.jsonl", format_=None, **settings):
    """Read as the guess says, or as named."""
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    guess = guess_format(str(path)).format
    source = guess.model_copy(update=settings) if format_ is None else None
    source = source or validate(Format, {"format": format_, "path": str(path), **settings})
    return source.name, read_examples(source, "task").examples


def turns(example):
    return [(turn.role, turn.content) for turn in example.messages]


POSTS = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<posts>
  <row Id="1" PostTypeId="1" AcceptedAnswerId="4" Score="9" Title="How hot?" Body="&lt;p&gt;Water for &lt;b&gt;tea&lt;/b&gt;?&lt;/p&gt;" />
  <row Id="2" PostTypeId="2" ParentId="1" Score="3" Body="&lt;p&gt;Cold.&lt;/p&gt;" />
  <row Id="3" PostTypeId="1" Score="1" Title="Alone" Body="&lt;p&gt;Anyone?&lt;/p&gt;" />
  <row Id="4" PostTypeId="2" ParentId="1" Score="3" Body="&lt;p&gt;Just below &lt;code&gt;100 C&lt;/code&gt;.&lt;/p&gt;" />
  <row Id="5" PostTypeId="4" Body="a tag wiki" />
</posts>
"""


@pytest.mark.parametrize("name", ["Posts.xml", "Posts.xml.gz"])
def test_posts_become_a_question_with_its_best_answer(tmp_path, name):
    found, rows = examples(tmp_path, POSTS, name)
    assert found == "stack_exchange"
    assert [turns(row) for row in rows] == [
        [("user", "How hot?\n\nWater for tea?"), ("assistant", "Just below `100 C`.")]
    ]
    assert (rows[0].id, rows[0].line) == ("1", 3)
    _, rows = examples(tmp_path, POSTS, name, prompt="title")
    assert turns(rows[0])[0] == ("user", "How hot?")


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        (POSTS[:400], "E-DATA-TRUNCATED", None),
        (POSTS.replace("<posts>", "<posts><oops></posts>"), "E-DATA-XML", 2),
        (POSTS.replace("<posts>", '<!DOCTYPE a [<!ENTITY b "bb">]><posts>'), "E-DATA-XML", 2),
    ],
    ids=["cut", "broken", "entities"],
)
def test_faulty_xml_is_named_by_line(tmp_path, text, code, line):
    with pytest.raises(DataError) as caught:
        examples(tmp_path, text, "Posts.xml", "stack_exchange")
    assert caught.value.code == code
    assert caught.value.fix
    assert line is None or caught.value.where["line"] == line


def test_html_keeps_code_lists_and_quotes_and_drops_the_rest():
    html = (
        "<h1>Title</h1><p>See  <a href='u'>this\nlink</a><img src='x'>.</p><ol><li>one</li><li><p>two &amp; half</p></li></ol>"
        "<pre><code>def f():\n    return 1 &lt; 2\n</code></pre><blockquote><p>quoted</p></blockquote><script>bad()</script>end"
    )
    assert html_to_text(html) == (
        "Title\n\nSee this link.\n\n1. one\n2. two & half\n\n```\ndef f():\n    return 1 < 2\n```\n\n> quoted\n\nend"
    )


def test_a_task_file_gives_one_row_an_instance(tmp_path):
    task = {
        "Definition": ["Say the opposite."],
        "Positive Examples": [{"input": "hot", "output": "cold"}],
        "Instances": [{"id": "a", "input": "big", "output": ["small", "little"]}, {"input": "up", "output": "down"}],
        "Instance License": ["MIT"],
    }
    for name, text in (("task.json", json.dumps(task, indent=2)), ("tasks.jsonl", json.dumps(task) + "\n")):
        found, rows = examples(tmp_path, text, name)
        assert found == "super_natural_instructions"
        assert turns(rows[0]) == [("user", "Say the opposite.\n\nbig"), ("assistant", "small")]
        assert [(row.id, row.licence) for row in rows] == [("a", "MIT"), ("1-2", "MIT")]
    _, rows = examples(tmp_path, json.dumps(task) + "\n", demonstrations=1)
    assert turns(rows[1])[0][1] == "Say the opposite.\n\nInput: hot\nOutput: cold\n\nInput: up\nOutput:"


def test_a_seed_task_without_input_is_its_instruction(tmp_path):
    row = {"id": "seed", "instruction": "Name a river.", "instances": [{"input": "", "output": "The Po."}]}
    _, rows = examples(tmp_path, json.dumps(row) + "\n")
    assert turns(rows[0]) == [("user", "Name a river."), ("assistant", "The Po.")]


def message(text, role, *replies, rank=None):
    return {"message_id": text, "text": text, "role": role, "rank": rank, "replies": list(replies)}


def test_a_tree_becomes_its_best_thread_or_all(tmp_path):
    tree = message(
        "q", "prompter",
        message("worse", "assistant", message("again", "prompter"), rank=1),
        message("best", "assistant", message("more", "prompter", message("last", "assistant")), rank=0),
        {**message("gone", "assistant", rank=0), "deleted": True},
    )  # fmt: skip
    text = json.dumps({"message_tree_id": "t", "prompt": tree}) + "\n"
    found, rows = examples(tmp_path, text)
    assert found == "message_trees"
    assert [[said for _, said in turns(row)] for row in rows] == [["q", "best", "more", "last"]]
    _, rows = examples(tmp_path, text, threads="all")
    assert [[said for _, said in turns(row)] for row in rows] == [["q", "worse"], ["q", "best", "more", "last"]]


CONLLU = """# sent_id = s1
# text = Don't go
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVB\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\t_

# sent_id = s2
1\tStop\tstop\tVERB\tVB\t_\t0\troot\t_\t_
"""


def test_a_treebank_is_text_or_tags(tmp_path):
    found, rows = examples(tmp_path, CONLLU, "a.conllu")
    assert found == "treebank"
    assert [(row.id, row.text) for row in rows] == [("s1", "Don't go"), ("s2", "Stop")]
    _, rows = examples(tmp_path, CONLLU, "a.conllu", tags="upos")
    assert turns(rows[0]) == [("user", "Do n't go"), ("assistant", "AUX PART VERB")]
    with pytest.raises(DataError) as caught:
        examples(tmp_path, CONLLU.replace("\troot\t_\t_\n\n", "\troot\n\n"), "a.conllu", "treebank")
    assert (caught.value.code, caught.value.where["line"]) == ("E-DATA-CSV", 6)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        {
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
        },
        {"prompt": [{"role": "user", "content": "q"}], "chosen": "good", "rejected": "bad"},
    ],
    ids=["texts", "transcripts", "turns", "prompt of turns"],
)
def test_a_pair_is_the_better_answer_with_the_worse_beside_it(tmp_path, row):
    found, rows = examples(tmp_path, json.dumps(row) + "\n")
    assert found == "preference"
    assert (turns(rows[0]), rows[0].rejected) == ([("user", "q"), ("assistant", "good")], "bad")


def test_a_pair_of_equal_answers_or_other_prompts_is_refused(tmp_path):
    for row in (
        {"prompt": "q", "chosen": "a", "rejected": "a"},
        {"chosen": "Human: q\n\nAssistant: a", "rejected": "Human: p\n\nAssistant: b"},
    ):
        with pytest.raises(DataError) as caught:
            examples(tmp_path, json.dumps(row) + "\n")
        assert caught.value.code == "E-DATA-PAIR"


def test_a_transcript_becomes_turns(tmp_path):
    row = {"input": "### Human: a\nUser: is a word ### Assistant: b ### Human: c ### Assistant:", "output": "d"}
    found, rows = examples(tmp_path, json.dumps(row) + "\n")
    assert found == "transcript"
    assert turns(rows[0]) == [("user", "a\nUser: is a word"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]


def test_the_machine_of_a_dialogue_corpus_is_the_assistant(tmp_path):
    row = {"turns": [{"speaker": "USER", "utterance": "hi"}, {"speaker": "SYSTEM", "utterance": "hello"}]}
    found, rows = examples(tmp_path, json.dumps(row) + "\n")
    assert (found, turns(rows[0])) == ("messages", [("user", "hi"), ("assistant", "hello")])


def test_a_data_set_is_fetched_once_and_read_as_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "set").mkdir()
    rows = [{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(3)]
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = guess_format(f"hub:{tmp_path}/set").format
    assert [row.target for row in read_examples(source, "task").examples] == ["a0", "a1", "a2"]
    (tmp_path / "set" / "train.jsonl").unlink()
    assert len(read_examples(source, "task").examples) == 3
    with pytest.raises(DataError) as caught:
        read_examples(source.model_copy(update={"path": f"hub:{tmp_path}/set#dev"}), "task")
    assert (caught.value.code, bool(caught.value.fix)) == ("E-DATA-HUB", True)


def test_labels_of_a_data_set_stand_there_by_their_names(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    labels = [1, 0] * 6 + [-1]
    rows = datasets.Dataset.from_dict({"text": list("abcdefghijklm"), "label": labels}, features=kinds)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    source = guess_format("hub:owner/name").format.model_copy(update={"skip_bad": 1})
    reading = read_examples(source, "task")
    assert [row.target for row in reading.examples] == ["good", "bad"] * 6
    assert reading.bad[0].code == "E-DATA-NULL"  # -1 is how a hidden label is written


NAMES = "prompt completion instruction input output text messages role content from value chosen rejected form upos Instances Definition id history replies PostTypeId Body Answer system tools".split()
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "assistant", "1", "### Human: a ### Assistant: b"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
FILE_FORMATS = [name for name in Format.names() if Format.find(name).from_file]


@settings(max_examples=100, deadline=None)
@given(row=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5))
@pytest.mark.parametrize("name", FILE_FORMATS)
def test_any_row_is_an_example_or_refused_with_a_code(name, row):
    source = validate(Format, {"format": name, "path": "rows.jsonl"})
    assert 0 <= type(source).looks_like(row) <= 1
    for made in source.arrange(iter([Row(Place("rows.jsonl", 1), row)])):
        if not isinstance(made.values, DataError):
            found = outcome(source, made)
            if isinstance(found, DataError):
                assert found.code.startswith("E-DATA-")
                assert found.where["line"] == 1
            else:
                assert found.text or found.target


def outcome(source, row):
    try:
        return source.read_row(row.values, row.place)
    except DataError as error:
        return error


@settings(max_examples=200, deadline=None)
@given(st.text("<>/&;pulioprecodeblckqt =\"'!-\n `1", max_size=60))
def test_any_html_becomes_text(html):
    text = html_to_text(html)
    assert text == text.strip("\n")
    assert "\n\n\n" not in text or "```" in text


def test_an_end_mark_behind_every_answer_is_taken_off(tmp_path):
    text = "".join(json.dumps({"inputs": f"q{n}", "targets": f"a{n}<|endoftext|>"}) + "\n" for n in range(3))
    _, rows = examples(tmp_path, text)
    assert [row.target for row in rows] == ["a0", "a1", "a2"]
