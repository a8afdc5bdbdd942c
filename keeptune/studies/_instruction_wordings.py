"""Questions about how tasks are asked, from a plan of `data build`: templates, tasks, and kinds never trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keeptune.core.example import Example, Message
from keeptune.core.spec import validate
from keeptune.data.build import BuildPlan, build_task
from keeptune.data.split import TRAIN, split
from keeptune.recipes.yaml_file import read_yaml
from keeptune.studies._instruction_design import BASE, Design, Rows, drawn

ONE, TEN, ALONE = "one template", "ten templates", "its own task"
OWN, UNSEEN = "the trained tasks", "the kinds held out"


@dataclass(frozen=True)
class Asked:
    """A row as one template asks it.

    Attributes:
        row: the conversation.
        task: it comes from.
        held_out: whether its kind is never trained.
        template: number of its template.
        inverted: whether the template asks for the question.
    """

    row: Example
    task: str
    held_out: bool
    template: int
    inverted: bool


def read_plan(path: Path) -> BuildPlan:
    """The plan of a file.

    Raises:
        RecipeError: it cannot be read, or is no plan.
    """
    plain, lines = read_yaml(path)
    plan: BuildPlan = validate(BuildPlan, plain or {}, file=str(path), lines=lines)
    return plan


def add_wordings(design: Design, plan: BuildPlan, folder: Path, test: float, items: int, seed: int) -> None:
    """`templates`, `tasks` and `held-out kind`, where the plan has what they need.

    All arms are trained on the training rows of the same files; `one template` asks each in the first wording of its
    kind, `ten templates` by one of ten, `its own task` is one task's share of `ten templates`. Exams are test rows in
    a wording that is neither the first nor inverted.

    Args:
        design: is added to.
        plan: of the build; its `templates` and `inverted` give way to those of the arms.
        folder: against which its paths are read.
        test: share of rows that are held out where the rows state no part.
        items: most rows of an exam.
        seed: of the split and of the exams.
    """
    one = asked(plan.model_copy(update={"templates": 1, "inverted": 0}), folder)
    ten = asked(plan, folder)
    parts = _parts(one, test, seed)
    wordings = {item.row.id: item for item in ten}
    trained = {name: _part(rows, parts, TRAIN) for name, rows in ((ONE, one), (TEN, ten))}
    design.arms[ONE] = lambda draw: drawn(trained[ONE], None, draw)
    design.arms[TEN] = lambda draw: drawn(trained[TEN], None, draw)
    exam = [item for item in wordings.values() if item.template != 1 and not item.inverted]
    design.exams[OWN] = drawn(_part(exam, parts, "test"), items, seed)
    design.exams[UNSEEN] = drawn([item.row for item in exam if item.held_out], items, seed)
    design.compare("templates", TEN, ONE, OWN, UNSEEN)
    _add_tasks(design, ten, exam, parts, items, seed)
    if design.exams[UNSEEN]:
        design.compare("held-out kind", TEN, BASE, UNSEEN)
    else:
        design.refused["held-out kind"] = "the plan holds out no kind (`hold_out`)."


def _add_tasks(
    design: Design, ten: Sequence[Asked], exam: Sequence[Asked], parts: Mapping[str, str], items: int, seed: int
) -> None:
    """The task with most training rows alone, against all of them."""
    counts = Counter(item.task for item in ten if not item.held_out and parts[item.row.id] == TRAIN)
    if len(counts) < 2:
        design.refused["tasks"] = "the plan trains one task only."
        return
    name = max(counts, key=counts.__getitem__)
    own, held = f"{ALONE}, {name}", f"the task {name}"
    rows = _part([item for item in ten if item.task == name], parts, TRAIN)
    design.arms[own] = lambda draw: drawn(rows, None, draw)
    design.exams[held] = drawn(_part([item for item in exam if item.task == name], parts, "test"), items, seed)
    design.compare("tasks", TEN, own, held, UNSEEN)


def asked(plan: BuildPlan, folder: Path) -> list[Asked]:
    """Every row that the plan builds, in its order."""
    return [item for name in plan.tasks for item in _task(name, plan, folder)]


def _task(name: str, plan: BuildPlan, folder: Path) -> Iterator[Asked]:
    held_out = plan.tasks[name].kind in plan.hold_out
    for built in build_task(name, plan, folder, Counter()):
        turns = tuple(Message(turn["role"], turn["content"]) for turn in built["messages"])
        row = Example(built["id"], turns, source=name, part=built["split"])
        yield Asked(row, name, held_out, built["template"], built["inverted"])


def _parts(one: Sequence[Asked], test: float, seed: int) -> dict[str, str]:
    """The part of each row by id: as stated, else drawn by a hash of what its first wording asks, task by task."""
    parts: dict[str, str] = {}
    for name in dict.fromkeys(item.task for item in one):
        rows = [item.row for item in one if item.task == name]
        held_out = any(item.held_out for item in one if item.task == name)
        found = {"test": range(len(rows))} if held_out else split(rows, {"test": test}, seed)
        parts |= {rows[place].id: part for part, places in found.items() for place in places}
    return parts


def _part(items: Sequence[Asked], parts: Mapping[str, str], part: str) -> Rows:
    return tuple(item.row for item in items if not item.held_out and parts[item.row.id] == part)
