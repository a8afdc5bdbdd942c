"""Which tokens a word has, against the characters that decoding each token gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

import keeptune.pocket
from keeptune.data.treebank import Sentence
from keeptune.data.word_tokens import UnitEncoder

TOKENIZER = AutoTokenizer.from_pretrained(Path(keeptune.pocket.__file__).parent / "weights")
TEXTS = [
    ("Don't go there, Mr. Unwinese!", "Do n't go there , Mr. Unwinese !"),
    ("naïve  café (twice)", "naïve café ( twice )"),
    ("a<|end|>b", "a <|end|> b"),
    ("日本語 ok", "日本 語 ok"),
]


def sentence(text: str, words: str) -> Sentence:
    return Sentence("s", text, tuple(words.split()), {})


@pytest.mark.parametrize(("text", "words"), TEXTS)
def test_the_tokens_of_a_word_decode_to_text_that_holds_it(text, words):
    row = UnitEncoder(TOKENIZER).words(sentence(text, words))
    assert len(row.units) == len(words.split())
    for word, unit in zip(words.split(), row.units, strict=True):
        assert list(unit) == list(range(unit[0], unit[-1] + 1))
        whole = TOKENIZER.decode([row.encoded.tokens[place] for place in unit])
        assert word in whole
        if len(unit) > 1:
            for cut in (unit[1:], unit[:-1]):
                assert word not in TOKENIZER.decode([row.encoded.tokens[place] for place in cut])
    assert TOKENIZER.decode(row.encoded.tokens) == text


def test_words_that_are_not_in_the_text_are_written_with_blanks():
    row = UnitEncoder(TOKENIZER).words(sentence("vamos al mar", "vamos a el mar"))
    assert TOKENIZER.decode(row.encoded.tokens) == "vamos a el mar"
    assert len(row.units) == 4


def test_a_text_is_pooled_without_its_frame():
    encoder = UnitEncoder(TOKENIZER)
    count = len(TOKENIZER("one more line", add_special_tokens=False)["input_ids"])
    mean = encoder.text("a", "one more line", "mean")
    assert len(mean.units[0]) == count
    assert encoder.text("a", "one more line", "last").units == (mean.units[0][-1:],)
