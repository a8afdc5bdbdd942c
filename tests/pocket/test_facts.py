"""Invented facts: no word is known, every fact is stated, and no question stands in a text."""

from __future__ import annotations

from keeptune.pocket.facts import ANSWERS, KINDS, build_facts, invented_words
from keeptune.pocket.words import CATEGORIES, WORDS


def test_invented_words_are_new_and_different():
    words = invented_words(0, 500)
    assert len(set(words)) == 500
    assert not set(words) & set(WORDS)
    assert words[:20] == invented_words(0, 20)
    assert words != invented_words(1, 500)


def test_every_fact_is_stated_in_several_wordings_and_asked_in_none_of_them():
    facts = build_facts(0, count=32, documents=4)
    assert len(facts.train) == 128
    told = {kind: sum(row.target == answer for row in facts.test) for kind, answer in zip(KINDS, ANSWERS, strict=True)}
    assert set(told.values()) == {2}
    (taught, neighbours), texts = facts.tasks, [str(row.text) for row in facts.train]
    for item, asked, further in zip(taught.items, facts.test, facts.ood, strict=True):
        word, kind = item.cluster, item.options[item.gold].strip()
        own = [text for text in texts if word in text]
        assert len(own) == len(set(own)) == 4
        assert all(f"kind of {kind}" in text for text in own)
        assert any(item.prompt in text for text in texts)
        assert asked.target == further.target == f"The kind is {kind}."
        assert not any(row.prompt[0].content in text for row in (asked, further) for text in texts)
    for item in neighbours.items:
        assert item.cluster in CATEGORIES[KINDS[item.gold]]
        assert not any(f" {item.cluster} " in text for text in texts)


def test_another_seed_gives_other_facts():
    assert build_facts(0, 8, 2).digest() == build_facts(0, 8, 2).digest()
    assert build_facts(0, 8, 2).digest() != build_facts(1, 8, 2).digest()
