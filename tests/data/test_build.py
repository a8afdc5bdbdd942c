"""Instructions from task sets: a bank in order, every row asked once, options, inversion, caps and kinds held out."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeptune.core.errors import DataError, RecipeError
from keeptune.data.templates import FIELD, kind, kinds
from keeptune.recipes.building import build_file


@pytest.mark.parametrize("name", kinds())
def test_a_kind_has_ten_ways_to_ask_and_each_row_can_fill_them(name):
    found = kind(name)
    assert len(found.templates) == 10
    assert len({template.asked for template in found.templates}) == 10
    assert sum(template.inverted for template in found.templates) <= 3
    for template in found.templates:
        asked, answered = set(FIELD.findall(template.asked)), set(FIELD.findall(template.answer))
        assert asked | answered <= set(found.fields)
        assert asked
        assert answered
        assert not asked & answered
        assert template.inverted == (found.label in asked)


@given(st.text(), st.text())
def test_the_text_of_a_row_is_never_a_template(text, label):
    asked, answer = kind("sentiment").templates[0].fill({"text": text + "{label}", "label": label})
    assert asked.startswith(text + "{label}")
    assert answer == label


@pytest.mark.parametrize(("templates", "inverted", "turned"), [(10, 3, 3), (10, 0, 0), (1, 3, 0), (2, 3, 1), (4, 2, 2)])
def test_a_straight_way_to_ask_is_always_left(templates, inverted, turned):
    found = kind("inference").chosen(templates, inverted)
    assert sum(template.inverted for template in found) == turned
    assert len(found) == min(templates, 7 + turned)


@pytest.fixture
def plan(tmp_path):
    tables = {
        "moods": [{"text": f"text {n}", "label": str(n % 2)} for n in range(400)],
        "pairs": [{"premise": f"a {n}", "hypothesis": f"b {n}", "label": "yes", "split": "train"} for n in range(40)],
    }
    for name, rows in tables.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "plan.yaml").write_text(
        "tasks:\n"
        "  moods: {kind: sentiment, path: moods.jsonl, labels: {'0': bad, '1': good}}\n"
        "  pairs: {kind: inference, path: pairs.jsonl}\n"
        "hold_out: [inference]\n"
    )
    return tmp_path / "plan.yaml"


def built(plan, *settings, name="out.jsonl"):
    output = plan.parent / name
    result = build_file(plan, output, list(settings))
    return result, [json.loads(line) for line in output.read_text().splitlines()]


def test_every_row_is_asked_once_by_a_template_drawn_for_it(plan):
    result, rows = built(plan)
    assert (result["rows"], result["held_out"], len(rows)) == (440, 40, 440)
    assert len({row["id"] for row in rows}) == 440
    times = Counter(row["template"] for row in rows if row["task"] == "moods")
    assert set(times) == set(range(1, 11))
    assert sum((count - 40) ** 2 / 40 for count in times.values()) < 27.9  # chi square, 9 degrees, p = 0.001
    assert {row["split"] for row in rows if row["task"] == "pairs"} == {"test"}
    for row in rows[:400]:
        asked, answer = (turn["content"] for turn in row["messages"])
        number = row["id"].split("-")[1]
        assert f"text {int(number) - 1}" in (answer if row["inverted"] else asked)
        assert asked.endswith("OPTIONS:\n- bad\n- good") == (not row["inverted"])
        assert (answer in ("bad", "good")) == (not row["inverted"])


def test_the_same_seed_builds_the_same_and_other_tasks_change_nothing(plan):
    _, whole = built(plan)
    _, alone = built(plan, "hold_out=[]", "tasks={moods: {kind: sentiment, path: moods.jsonl, labels: {'0': bad, '1': good}}}", name="b")  # fmt: skip # noqa: E501
    assert whole[:400] == alone
    _, other = built(plan, "seed=1", name="c")
    assert [row["template"] for row in other] != [row["template"] for row in whole]


def test_a_cap_keeps_a_subset_of_what_a_larger_cap_keeps(plan):
    _, few = built(plan, "most=30", name="few")
    _, more = built(plan, "most=100", name="more")
    moods = [{row["id"] for row in rows if row["task"] == "moods"} for rows in (few, more)]
    assert (len(moods[0]), len(moods[1])) == (30, 100)
    assert moods[0] < moods[1]


def test_a_plan_that_cannot_be_built_is_refused(plan):
    for wrong in ("hold_out=[mood]", "hold_out=[inference,sentiment]", "tasks.moods.kind=sentimnt", "templates=11"):
        with pytest.raises(RecipeError):
            built(plan, wrong, name="x")
    with pytest.raises(RecipeError, match="Did you mean 'label'") as unknown:
        built(plan, "tasks.moods.columns={labl: mood}", name="x")
    assert unknown.value.code == "E-CONFIG-KEY"
    with pytest.raises(DataError) as caught:
        built(plan, "tasks.moods.columns={label: mood}", name="y")
    assert caught.value.code == "E-BUILD-NOTHING"
    assert "E-DATA-KEY" in caught.value.why
    assert not (plan.parent / "y").exists()


def talk(name, *said, **more):
    roles = ("user", "assistant")
    return {"id": name, "messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)], **more}


@pytest.fixture
def talks(tmp_path):
    rows = [talk(f"t{n}", f"hello {n}", f"yes {n}", f"and {n}?", f"no {n}") for n in range(60)]
    rows += [talk("short", "one thing", "done"), talk("again", "Hello, 3!", "again", "so?", "so"), {"id": "bad"}]
    rows += [talk("held", "stated", "a", "b", "c", split="test")]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "plan.yaml").write_text("conversations: {talk: {rows: {format: messages, path: talks.jsonl}}}\n")
    return tmp_path / "plan.yaml"


def test_conversations_are_kept_whole_and_what_is_left_out_is_counted(talks):
    result, rows = built(talks, "conversations.talk.answers=2")
    assert len(rows) == 61
    counts = result["tasks"]["talk"]
    assert {key: counts[key] for key in ("read", "bad", "few answers", "opens alike", "built")} == {
        "read": 64, "bad": 1, "few answers": 1, "opens alike": 1, "built": 61,
    }  # fmt: skip
    assert counts["read"] == sum(counts[key] for key in ("bad", "few answers", "opens alike", "over the cap", "built"))
    assert [turn["content"] for turn in rows[0]["messages"]] == ["hello 0", "yes 0", "and 0?", "no 0"]
    assert "1 with too few answers, 1 that open like another" in result["text"]
    assert {row["id"]: row["split"] for row in rows}["talk-held"] == "test"


def test_each_reply_is_learned_once_with_what_was_said_before(talks):
    from keeptune.data.encode import encode
    from keeptune.models.load import load

    _, rows = built(talks, "conversations.talk.make=replies", "conversations.talk.answers=2")
    assert len(rows) == 2 * 61
    tokenizer = load("pocket").tokenizer

    def learned(messages):
        row = encode(messages, tokenizer)
        return [label for label in row.labels if label != -100]

    whole = talk("", "hello 0", "yes 0", "and 0?", "no 0")["messages"]
    assert learned(rows[0]["messages"]) + learned(rows[1]["messages"]) == learned(whole)


def test_a_conversation_that_is_asked_holds_all_turns_and_its_last_answer(talks):
    _, rows = built(talks, "conversations.talk.make=asked", "conversations.talk.answers=2")
    assert {row["kind"] for row in rows} == {"dialogue"}
    assert len({row["template"] for row in rows}) == 10
    for row in rows[:60]:
        number, (asked, answer) = row["id"].split("-t")[1], (turn["content"] for turn in row["messages"])
        said = f"User: hello {number}\nAssistant: yes {number}\nUser: and {number}?"
        assert (said, f"no {number}") == ((answer, asked.split("\n\n")[-1]) if row["inverted"] else (said, answer))
        assert row["inverted"] or said in asked


def test_openings_decide_the_part_and_a_cap_keeps_a_subset(talks):
    settings = ("conversations.talk.test=0.3", "conversations.talk.make=replies")
    _, rows = built(talks, *settings)
    parts = {row["id"].rsplit("-", 1)[0]: row["split"] for row in rows}
    assert 5 < sum(part == "test" for part in parts.values()) < 35
    assert all(row["split"] == parts[row["id"].rsplit("-", 1)[0]] for row in rows)
    _, fewer = built(talks, *settings, "conversations.talk.most=10", name="fewer.jsonl")
    assert {row["id"] for row in fewer} < {row["id"] for row in rows}
    assert {row["id"].rsplit("-", 1)[0]: row["split"] for row in fewer}.items() < parts.items()


def test_a_plan_of_nothing_and_a_name_used_twice_are_refused(talks):
    for text in ("seed: 1", "tasks: {talk: {kind: pair, path: a.jsonl}}\n" + talks.read_text()):
        talks.write_text(text)
        with pytest.raises(RecipeError, match=r"nothing is built|name of a task and of conversations"):
            built(talks, name=f"{len(text)}.jsonl")
