"""Treebanks as words with columns: both file types, features, and what is refused."""

from __future__ import annotations

import json

import pytest

from keeptune.core.errors import DataError
from keeptune.data.treebank import read_treebank

CONLLU = """\
# sent_id = s1
# text = Don't go
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVBP\tMood=Imp|VerbForm=Fin\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\tMood=Imp\t0\troot\t_\t_

"""
ROW = {"sent_id": "s1", "text": "Don't go", "form": ["Do", "n't", "go"], "upos": ["AUX", "PART", "VERB"],
       "feats": ["Mood=Imp|VerbForm=Fin", "_", "Mood=Imp"], "head": [3, 3, 0]}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [("a.conllu", CONLLU), ("a.jsonl", json.dumps(ROW) + "\n")])
def test_both_file_types_give_the_same_sentence(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    (sentence,) = read_treebank(tmp_path / name, ["upos", "head", "feats.VerbForm", "feats.Mood"])
    assert (sentence.id, sentence.text, sentence.words) == ("s1", "Don't go", ("Do", "n't", "go"))
    assert sentence.columns == {
        "upos": ("AUX", "PART", "VERB"),
        "head": ("3", "3", "0"),
        "feats.VerbForm": ("Fin", "_", "_"),
        "feats.Mood": ("Imp", "_", "Imp"),
    }


@pytest.mark.parametrize(("change", "columns", "code"), [
    ({"head": [3, 4, 0]}, ["head"], "E-DATA-HEAD"),
    ({"head": ["3", "_", "0"]}, ["head"], "E-DATA-HEAD"),
    ({"upos": ["AUX", "PART"]}, ["upos"], "E-DATA-TYPE"),
    ({"upos": "AUX PART VERB"}, ["upos"], "E-DATA-TYPE"),
    ({}, ["xpos"], "E-DATA-KEY"),
])  # fmt: skip
def test_a_sentence_that_cannot_be_asked_is_refused_with_its_line(tmp_path, change, columns, code):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, **change}) + "\n")
    with pytest.raises(DataError) as caught:
        read_treebank(path, columns)
    assert caught.value.code == code
    assert caught.value.where["line"] == (2 if change else 1)
