"""`study instructions`: what each arm is trained on, what no arm may see, what cannot be asked, and what is said."""

from __future__ import annotations

import json

import pytest

from keeptune.core.errors import RecipeError
from keeptune.core.example import Example, Message
from keeptune.data.normalise import question
from keeptune.recipes.sources import Source
from keeptune.report.instructions_table import instructions_text
from keeptune.studies._instruction_design import BASE, Design, drawn
from keeptune.studies._instruction_rows import DIALOGUES, OUTSIDE, TEST, Pool, add_rows, opening
from keeptune.studies._instruction_wordings import ALONE, ONE, OWN, TEN, UNSEEN, add_wordings, read_plan
from keeptune.studies._session import run_study

PLAN = """\
tasks:
  colours: {kind: classification, path: colours.jsonl}
  shapes: {kind: classification, path: shapes.jsonl}
  moods: {kind: sentiment, path: moods.jsonl}
hold_out: [sentiment]
"""


@pytest.fixture
def plan(tmp_path):
    for name, count, labels in (("colours", 80, "red blue"), ("shapes", 40, "round square"), ("moods", 60, "good bad")):
        rows = [{"text": f"{name} number {i}", "label": labels.split()[i % 2]} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


def asked(plan, items=1000):
    design = Design()
    add_wordings(design, read_plan(plan), plan.parent, test=0.25, items=items, seed=3)
    return design


def test_one_and_ten_templates_ask_the_same_rows(plan):
    design = asked(plan)
    one, ten = design.arms[ONE](3), design.arms[TEN](3)
    assert {row.id for row in one} == {row.id for row in ten}
    assert not any(row.id.startswith("moods") for row in ten)
    wordings = {row.messages[0].content.split(row.id.split("-")[0])[0] for row in one}
    assert len(wordings) == 1
    assert len({row.messages[0].content.split(row.id.split("-")[0])[0] for row in ten}) > 5


def test_no_arm_is_trained_on_a_row_of_an_exam(plan):
    design = asked(plan)
    held = {row.id for rows in design.exams.values() for row in rows}
    trained = {row.id for make in design.arms.values() for row in make(3)}
    assert held
    assert not held & trained
    assert {row.id.split("-")[0] for row in design.exams[UNSEEN]} == {"moods"}


def test_the_task_alone_is_the_part_of_all_tasks(plan):
    design = asked(plan)
    own = {row.id for row in design.arms[f"{ALONE}, colours"](3)}
    assert own == {row.id for row in design.arms[TEN](3) if row.id.startswith("colours")}
    exams = [one.exam for one in design.contrasts if one.question == "tasks"]
    assert exams == ["the task colours", UNSEEN]
    assert [(one.first, one.second) for one in design.contrasts if one.question == "held-out kind"] == [(TEN, BASE)]


def test_an_exam_keeps_its_rows_and_a_plan_without_a_held_out_kind_says_so(plan):
    assert asked(plan, items=5).exams[OWN] == asked(plan).exams[OWN][:5]
    plan.write_text(PLAN.replace("hold_out: [sentiment]", ""))
    design = asked(plan)
    assert UNSEEN not in [one.exam for one in design.contrasts]
    assert "hold_out" in design.refused["held-out kind"]


def row(name, *said):
    turns = tuple(Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(said))
    return Example(name, turns)


def single(stem, count):
    return tuple(row(f"{stem}{i}", f"{stem} {i}?", f"{i} of {stem}") for i in range(count))


def sources(**others):
    own = single("task", 120)
    made = {"task": Source("task", own[:100], test=own[100:])}
    return made | {name: Source(name, rows) for name, rows in others.items()}


def row_questions(found, least=50, sizes=(100, 200), added=3):
    design = Design()
    add_rows(design, Pool(found, "task", least, sizes, added, 30, 1))
    return design


def test_arms_of_rows_are_as_large_as_they_say_and_smaller_ones_lie_inside():
    talks = tuple(row(f"d{i}", f"hello {i}", "yes", f"more {i}", "no") for i in range(20))
    design = row_questions(sources(dialogues=talks, narrow=single("one", 60), rejected=single("bad", 20)))
    assert [len(design.arms[name](1)) for name in ("50 rows", "100 rows", "50 narrow rows")] == [50, 100, 50]
    assert design.arms["50 rows"](1) == design.arms["100 rows"](1)[:50]
    assert design.arms["50 rows"](1) != design.arms["50 rows"](2)
    more, cut = design.arms["50 rows + 3 dialogues"](1), design.arms["50 rows + 3 first exchanges"](1)
    assert more[:50] == cut[:50] == design.arms["50 rows"](1)
    assert [opening(one) for one in more[50:]] == list(cut[50:])
    assert not {one.id for one in more} & {one.id for one in design.exams[DIALOGUES]}
    assert design.refused == {
        "quantity: 200 rows": "'task' has 100 training rows.",
        "quality": "'rejected' has 20 usable rows; an arm needs 50.",
    }


def test_quantity_without_a_size_is_named():
    assert row_questions(sources(), sizes=()).refused["quantity"] == "no size above 50 rows was named."


def test_rows_that_an_exam_asks_are_no_part_of_another_source():
    test = single("task", 120)[100:]
    design = row_questions(sources(narrow=test + single("one", 60), outside=single("one", 5)))
    asked = {question(one) for one in (*design.exams[TEST], *design.exams[OUTSIDE])}
    assert not asked & {question(one) for one in design.arms["50 narrow rows"](1)}
    assert [one.exam for one in design.contrasts if one.question == "diversity"] == [TEST, OUTSIDE]
    assert design.refused["dialogues"] == "the recipe has no source 'dialogues'."


def test_too_few_rows_refuse_every_question_by_name():
    design = row_questions(sources(), least=500)
    assert not design.contrasts
    assert set(design.refused) == {"dialogues", "quantity", "diversity", "quality"}


def test_a_smaller_draw_begins_a_larger_one():
    rows = single("task", 30)
    assert drawn(rows, 10, 4) == drawn(rows, 20, 4)[:10]


def comparison(metric, first, second, verdict):
    change = first - second
    return {
        "question": "quality", "first": "500 rows", "second": "500 rejected rows", "exam": TEST, "metric": metric,
        "values": [first, second], "change": change, "low": change - 0.02, "high": change + 0.02, "detectable": 0.03,
        "n": 90, "verdict": verdict,
    }  # fmt: skip


def test_the_page_says_what_the_numbers_say():
    result = {
        "recipe": "r", "model": "m", "seeds": 3, "length": {"steps": 5}, "methods": ["lora"], "level": 0.9,
        "max_new_tokens": 48, "refused": {"quantity: 9,000 rows": "'task' has 100 training rows."},
        "arms": [{"name": "500 rows", "rows": 500, "seeds": 3}, {"name": "base", "rows": 0, "seeds": 1}],
        "comparisons": [comparison("bits_per_byte", 1.1, 1.2, "better"),
                        comparison("rouge_l", 0.2, 0.21, "no difference shown")],
    }  # fmt: skip
    text = instructions_text(result)
    assert "| 1.100 | 1.200 | −0.100 (−0.120 to −0.080) **better** | 0.030 |" in text
    assert "| 20.0% | 21.0% | −1.0 (−3.0 to +1.0) | 3.0 |" in text
    assert "500 rows beats 500 rejected rows on test rows (bits per byte −0.100). In 1 of 2 comparisons no such" in text
    assert "- quantity: 9,000 rows: 'task' has 100 training rows." in text
    assert "1 arm, 3 seeds each, 3 runs" in text
    assert "Training rows: 500 rows (500). This record was made before times were kept.\n" in text
    assert "500 rows (500). 1.25 hours of training and measuring.\n" in instructions_text({**result, "hours": 1.25})


RECIPE = """\
name: tiny
seed: 3
model: {name: pocket}
data:
  task: {format: prompt_completion, path: task.jsonl}
split: {dev: 0.1, test: 0.3}
stages:
  - name: train
    method: {name: lora, rank: 2}
    data: task
    losses: [next_token]
    optimizer: {name: adamw, lr: 1.0e-3}
    steps: 1
    batch_tokens: 256
proof: {target: {data: task, metric: bits_per_byte}}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [{"prompt": f"count to {i}", "completion": f"{i} things"} for i in range(90)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def test_a_study_without_a_question_says_why(recipe, tmp_path):
    with pytest.raises(RecipeError) as fault:
        run_study("instructions", str(recipe), tmp_path / "s", quiet=True)
    assert fault.value.code == "E-STUDY-QUESTIONS"
    assert "an arm needs 500" in fault.value.why


@pytest.mark.slow
def test_arms_are_run_once_and_read_the_second_time(recipe, plan, tmp_path, monkeypatch):
    choices = ["plan=plan.yaml", "least=10", "sizes=[20]", "seeds=2", "items=30", "max_new_tokens=4"]
    result = run_study("instructions", str(recipe), tmp_path / "s", choices=choices, quiet=True)
    assert [(arm["name"], arm["seeds"]) for arm in result["arms"]] == [
        (BASE, 1), (ONE, 2), (TEN, 2), (f"{ALONE}, colours", 2), ("10 rows", 2), ("20 rows", 2),
    ]  # fmt: skip
    assert {one["question"] for one in result["comparisons"]} == {"templates", "tasks", "held-out kind", "quantity"}
    assert set(result["refused"]) == {"dialogues", "diversity", "quality"}
    for one in result["comparisons"]:
        assert one["change"] == pytest.approx(one["values"][0] - one["values"][1])
        assert one["low"] <= one["change"] <= one["high"]

    def never(*_, **__):
        raise AssertionError("a finished arm was run again")

    monkeypatch.setattr("keeptune.studies.instructions.trained", never)
    assert run_study("instructions", str(recipe), tmp_path / "s", choices=choices, quiet=True) == result
