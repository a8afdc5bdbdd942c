"""Rules of curation remove what they say, counts add up, quantiles are the group's, draws follow its size."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeptune.core.errors import DataError, RecipeError
from keeptune.core.example import Example, Message
from keeptune.core.spec import validate
from keeptune.data.curate import curate, sample
from keeptune.data.curation import Candidate, Rule
from keeptune.recipes.curation import curate_files, rules_of


def candidate(answer="fine", score=20.0, title="How hot is boiling water", asked=1.0, id_="1", group="g"):
    turns = (Message("user", title), Message("assistant", answer))
    return Candidate(Example(id_, turns), group, score, asked, title)


def rule(name, **given):
    return validate(Rule, {"name": name, **given})


REMOVED = {
    "score": [candidate(score=9)],
    "title": [candidate(title="How hot"), candidate(title="How hot is this in the end")],
    "length": [candidate("x" * 1199), candidate("x" * 4097)],
    "first_person": [candidate("Then I went."), candidate("In my view."), candidate("I’d say so")],
    "other_answers": [
        candidate("As mentioned above."),
        candidate("See Stack\nExchange."),
        candidate("like Bob’s answer"),
    ],
}
KEPT = {
    "score": [candidate(score=10), candidate(score=None)],
    "title": [candidate(title=""), candidate(title="What do you call it")],
    "length": [candidate("x" * 1200), candidate("x" * 4096)],
    "first_person": [
        candidate("The i in iPhone; Henry VIII. Type II"),
        candidate("Run `I = my(1)` and\n```\nmy I\n```"),
        candidate("> I was there\nsays the book"),
    ],
    "other_answers": [candidate("Mention the weather.")],
    "opening": [candidate("I know this.", score=0)],
}


@pytest.mark.parametrize("name", Rule.names())
def test_a_rule_removes_what_it_says_and_keeps_the_rest(name):
    made = rule(name)
    assert all(made.reason(one) for one in REMOVED.get(name, ()))
    assert not any(made.reason(one) for one in KEPT[name])


def test_an_opening_speaks_of_the_answer_and_later_sentences_stay():
    text = "This article shows how. Read this article. In this article all is said."
    changed = rule("opening").rewritten(candidate(text))
    assert changed.answer == "The following answer shows how. Read the following answer. In this article all is said."
    assert rule("opening").rewritten(candidate("Plain.")).answer == "Plain."


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["I am.", "x" * 1500, "as mentioned", "ok"])), max_size=30)
)
def test_the_counts_add_up_and_the_kept_pass_every_rule(rows):
    found = [candidate(answer, score) for score, answer in rows]
    rules = rules_of("relative", (), ())
    kept, table = curate(found, rules)
    left = len(found)
    for done in table:
        assert left - done.removed == done.left
        assert done.removed <= done.alone
        left = done.left
    assert left == len(kept)
    assert kept == [one for one in found if not any(done.rule.reason(one) for done in table)]


def test_a_quantile_is_that_of_the_group():
    found = [candidate(score=float(n)) for n in range(101)]
    fitted = rule("score", least="q0.9").fitted(found)
    assert fitted.least == np.quantile(range(101), 0.9) == 90
    with pytest.raises(RecipeError):
        rule("score", least="q90")


def test_groups_are_drawn_by_size_to_the_power_of_one_over_the_temperature():
    groups = {
        name: [candidate(asked=float(n), group=name, id_=f"{name}{n}") for n in range(4000)]
        for name in ("small", "large")
    }
    sizes = {"small": 1000, "large": 8000}
    taken = sample(groups, sizes, 3000, 3.0, seed=1)
    share = Counter(one.group for one in taken)["large"] / 3000
    assert abs(share - 2 / 3) < 4 * (2 / 9 / 3000) ** 0.5
    best = [one.asked for one in taken if one.group == "small"]
    assert best == sorted(best, reverse=True)
    assert best[0] == 3999
    assert sample(groups, sizes, 50, 3.0, seed=2) == sample(groups, sizes, 50, 3.0, seed=2)


@pytest.fixture
def forum(tmp_path):
    rows = [{"prompt": f"Question number {n} of all", "completion": "word " * 300, "score": n} for n in range(20)]
    (tmp_path / "forum.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_files_of_any_format_are_curated_and_can_be_trained_on(forum):
    from keeptune.data.guess import guess_format
    from keeptune.data.read import read_examples

    output = forum / "kept.jsonl"
    found = curate_files([forum / "forum.jsonl"], output)
    assert (found["kept"], found["groups"][0]["candidates"]) == (10, 20)
    source = guess_format(str(output)).format
    assert source.name == "messages"
    assert len(read_examples(source, "task").examples) == 10
    with pytest.raises(RecipeError, match="already"):
        curate_files([forum / "forum.jsonl"], output)


def test_settings_and_switches_reach_the_rules(forum):
    files = [forum / "forum.jsonl"]
    assert curate_files(files, forum / "a.jsonl", settings=["score.least=q0.5"])["kept"] == 10
    assert curate_files(files, forum / "b.jsonl", off=["score"])["kept"] == 20
    assert curate_files(files, forum / "c.jsonl", rows=3)["kept"] == 3
    with pytest.raises(DataError) as caught:
        curate_files(files, forum / "d.jsonl", settings=["score.least=99"])
    assert caught.value.code == "E-CURATE-NOTHING"
    for wrong in ({"off": ["scor"]}, {"settings": ["scor.least=3"]}, {"settings": ["score.lest=3"]}):
        with pytest.raises(RecipeError):
            curate_files(files, forum / "e.jsonl", **wrong)


@pytest.mark.parametrize("setting", ["score.least=q9", "score.lest=3"])
def test_a_wrong_setting_is_named_as_it_was_written(setting):
    with pytest.raises(RecipeError) as caught:
        rules_of("relative", [setting], [])
    assert caught.value.where["key"] == setting.partition("=")[0]
