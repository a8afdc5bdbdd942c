"""A better and a worse answer to one prompt are one row with two endings."""

from __future__ import annotations

import pytest

from keeptune.core.errors import DataError
from keeptune.core.example import Example, Message
from keeptune.data.encode import encode, encode_all
from keeptune.data.encoder import Encoded
from keeptune.data.pairs import paired, with_worse
from keeptune.recipes.encoding import packed, unpacked

TALK = (Message("user", "one"), Message("assistant", "two"), Message("user", "three four"))


def pair(better="five", worse="six seven", before=TALK, id_="1"):
    return Example(id_, (*before, Message("assistant", better)), source="task", line=7, rejected=worse)


@pytest.fixture(scope="module", params=["chatml", None], ids=["chatml", "plain"])
def tokenizer(request, make_tokenizer):
    return make_tokenizer("byte_level", request.param)


def encoded(examples, tokenizer, **settings):
    return encode_all(examples, tokenizer, **{"too_long": "drop", "context": 500, "pairs": True, **settings})


def test_the_endings_are_the_two_conversations_learned_on_their_last_answer(tokenizer):
    example = pair()
    [row] = encoded([example], tokenizer).rows
    better, worse = row.endings
    assert better.tokens == encode(example, tokenizer).tokens
    assert worse.tokens == encode(with_worse(example), tokenizer).tokens
    assert (better.id, worse.id) == ("1", "1#worse")
    for ending, said in ((better, "five"), (worse, "six seven")):
        kept = [token for token, learned in zip(ending.tokens, ending.learned, strict=True) if learned]
        assert said in tokenizer.decode(kept)
        assert "two" not in tokenizer.decode(kept), "an earlier answer is context"
    assert len(row.tokens) == len(better.tokens) + len(worse.tokens) - row.fork.shared
    assert row.longest == max(len(better.tokens), len(worse.tokens))


def test_without_pairs_the_better_answer_is_all_there_is(tokenizer):
    [row] = encoded([pair()], tokenizer, pairs=False).rows
    assert row.endings == (row,)
    assert row == encode(pair(), tokenizer)


def test_a_row_with_one_answer_has_one_ending(tokenizer):
    [row] = encoded([pair(worse=None)], tokenizer).rows
    assert row.fork is None


@pytest.mark.parametrize("policy", ["drop", "cut", "split"])
def test_a_pair_is_never_cut(tokenizer, policy):
    long = pair(worse="six " * 60, id_="2")
    found = encoded([pair(), long], tokenizer, too_long=policy, context=60)
    assert [row.id for row in found.rows] == ["1"]
    assert found.counts["long"] == found.counts["dropped"] == 1
    assert "line 7" in str(found.problems[0])


def test_the_cache_gives_pairs_back(tokenizer):
    found = encoded([pair(), pair(worse=None, id_="2")], tokenizer)
    assert unpacked(packed(found)) == found


def test_prompts_that_differ_make_no_pair():
    better = Encoded("1", "task", (1, 2, 3), (False, False, True))
    with pytest.raises(DataError, match="reads the prompt differently") as caught:
        paired(better, Encoded("1", "task", (1, 9, 3), (False, False, True)), 7)
    assert caught.value.where["line"] == 7
    with pytest.raises(DataError, match="no token that could be learned"):
        paired(better, Encoded("1", "task", (1, 2), (False, False)))
