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
    with pytest.raises(DataError) as caught:
        built(plan, "tasks.moods.columns={label: mood}", name="y")
    assert caught.value.code == "E-BUILD-NOTHING"
    assert "E-DATA-KEY" in caught.value.why
    assert not (plan.parent / "y").exists()
