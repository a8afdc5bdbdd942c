"""Rows whose answers the model that trains has just written, and the teacher that judges every token of them.

Before each optimiser step the model answers the questions of the step's rows; what was learned in the row is replaced
by that answer. The teacher may read another text than the student, such as the question with a demonstration in it:
its state behind position t of the answer stands against the student's behind position t of the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.data.encode import Encoded, Encoder
from keeptune.data.starts import UNSAID, Starts
from keeptune.engine.batch import PackedBatch, pack
from keeptune.engine.generation import answer_limits, generate
from keeptune.engine.head import Head
from keeptune.engine.rows import active
from keeptune.stages._answering import question_tokens
from keeptune.stages._plan import Plan
from keeptune.stages._reference import Reference, Stacks

if TYPE_CHECKING:
    from keeptune.models.load import Loaded
    from keeptune.stages import StageWork
    from keeptune.stages.distill import Distill

Key = tuple[str, str]


@dataclass
class OnPolicyPlan(Plan):
    """A plan whose rows of one source are answered anew when their step comes.

    Attributes:
        drawn_plan: the rows as the data has them.
        stage: how is sampled.
        loaded: the model that trains, as it is when it is asked.
        adapters: that serve the source.
        shown: what the teacher reads in place of the question, by the row's id; empty: the question itself.
        stops: tokens that end an answer; the first of them is written behind one that ended.
    """

    drawn_plan: Plan
    stage: Distill
    loaded: Loaded
    adapters: tuple[str, ...]
    shown: Mapping[str, tuple[int, ...]]
    stops: Sequence[int]
    _step: int | None = field(default=None, init=False)
    _now: list[Encoded] = field(default_factory=list, init=False)
    teacher_rows: dict[Key, tuple[Encoded, int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Order, seed and digests are those of the plan."""
        self._rows, self._batches = self.drawn_plan._rows, self.drawn_plan._batches
        self.seed, self.sources = self.drawn_plan.seed, self.drawn_plan.sources

    def rows(self, step: int) -> list[Encoded]:
        """The rows of a step; asked twice about the same one, the same answers."""
        if step != self._step:
            drawn = [replace(row, id=f"{row.id}~{place}") for place, row in enumerate(self.drawn_plan.rows(step))]
            self._now, self._step = self._answered(drawn, step), step
        return self._now

    def _answered(self, rows: Sequence[Encoded], step: int) -> list[Encoded]:
        asked = {place: question_tokens(row) for place, row in enumerate(rows) if row.source == self.stage.on}
        asked = {place: tokens for place, tokens in asked.items() if len(tokens) > 1}  # a document asks nothing
        made = list(rows)
        self.teacher_rows.clear()
        starts = [rows[place].starts.within(len(tokens)) for place, tokens in asked.items()]
        for place, answer in zip(asked, self._written(list(asked.values()), starts, step), strict=True):
            made[place] = _row(rows[place], asked[place], answer)
            shown = self.shown.get(rows[place].id.rsplit("~", 1)[0])
            if shown is not None:
                key = (made[place].source, made[place].id)
                read = replace(_row(rows[place], shown, answer), starts=UNSAID)  # one text, whatever the question is
                self.teacher_rows[key] = read, len(shown) - len(asked[place])
        return made

    def _written(self, prompts: Sequence[Sequence[int]], starts: Sequence[Starts], step: int) -> list[list[int]]:
        """What the model answers, with the token that ends it where it ended in time."""
        if not prompts:
            return []
        limit = self.stage.max_new_tokens
        with torch.no_grad(), active(self.loaded.model, self.adapters or None):
            found = generate(
                self.loaded.model, self.loaded.tokenizer, prompts, starts=starts, max_new_tokens=limit,
                stop_ids=set(self.stops), temperature=self.stage.temperature, seed=self.seed * 1_000_003 + step,
                batch_tokens=32_768,
            )  # fmt: skip
            limits = answer_limits(self.loaded.model, prompts, limit)
        return [
            [*tokens, self.stops[0]] if len(tokens) < most else tokens
            for tokens, most in zip(found, limits, strict=True)
        ]


@dataclass(frozen=True)
class Teacher:
    """A reference that reads the shown rows in place of the student's.

    Attributes:
        reference: the teacher's model.
        plan: which knows the rows that it is shown.
    """

    reference: Reference
    plan: OnPolicyPlan

    @property
    def head(self) -> Head:
        """The teacher's head."""
        return self.reference.head

    @torch.no_grad()
    def hidden(self, batch: PackedBatch, rows: Tensor) -> Tensor:
        """Hidden states [N, D] at the positions `rows`, which ascend."""
        segments, keys = batch.segment_of()[rows], list(zip(batch.sources, batch.ids, strict=True))
        other = torch.tensor([key in self.plan.teacher_rows for key in keys], device=rows.device)[segments]
        if not bool(other.any()):
            return self.reference.hidden(batch, rows)
        read, places = self._shown(batch, rows[other], segments[other], keys)
        shown = self.reference.hidden(read, places)
        found = shown.new_empty(len(rows), shown.shape[1])
        found[other] = shown
        if not bool(other.all()):
            found[~other] = self.reference.hidden(batch, rows[~other])
        return found

    def _shown(
        self, batch: PackedBatch, rows: Tensor, segments: Tensor, keys: Sequence[Key]
    ) -> tuple[PackedBatch, Tensor]:
        """The rows that the teacher reads, and where in them each position of the student's stands."""
        used = sorted(set(segments.tolist()))
        texts = [self.plan.teacher_rows[keys[segment]] for segment in used]
        read = pack([row for row, _ in texts]).to(rows.device)
        start = torch.zeros(len(keys), dtype=torch.long, device=rows.device)
        for place, segment in enumerate(used):
            start[segment] = read.offsets[place] + texts[place][1]
        return read, start[segments] + batch.positions[rows]


def on_policy_plan(stage: Distill, plan: Plan, loaded: Loaded, work: StageWork, stacks: Stacks) -> OnPolicyPlan:
    """The plan with the model's own answers.

    Raises:
        DataError: no row of the source asks anything (E-DISTILL-ROWS).
    """
    encoder = Encoder(loaded.tokenizer, work.template)
    stops = list(encoder.chat.end_ids)
    stops += sorted({*loaded.tokenizer.all_special_ids, *encoder.stop_ids()} - set(stops))
    examples = {row.id: row for row in work.examples.get(stage.on, ()) if row.text is None and row.prompt}
    own = [row for row in plan.unique_rows() if row.source == stage.on]
    if not any(row.id in examples for row in own):
        raise DataError(
            f"no row of '{stage.on}' asks anything that the model could answer.",
            code="E-DISTILL-ROWS",
            where={"key": f"stages[{work.index}].on"},
            fix="Name a source of prompts with answers, or of conversations.",
        )
    shown = {} if stage.show is None else {
        row.id: tuple(encoder.prompt(demonstrated(examples[row.id], stage.show))) for row in own if row.id in examples
    }  # fmt: skip
    return OnPolicyPlan(plan, stage, loaded, stacks[stage.on], shown, stops)


def demonstrated(example: Example, show: str) -> tuple[Any, ...]:
    """The conversation up to its last answer, whose last request is told with the answer as `show` has it."""
    *before, asked = example.prompt
    text = show.replace("{reference}", example.target).replace("{instruction}", asked.content)
    return (*before, replace(asked, content=text))


def old_self(model: PreTrainedModel, stacks: Stacks, work: StageWork, *, detachable: bool) -> Reference:
    """The run's base as the teacher: the model without adapters where its own weights are the base's, else a copy."""
    bare: Stacks = dict.fromkeys(stacks, ())
    if detachable:
        return Reference(model, bare, copied=False)
    assert work.base is not None, "a run has a base"
    return Reference(work.open(work.base).model.requires_grad_(False), bare, copied=True)


def _row(row: Encoded, question: Sequence[int], answer: Sequence[int]) -> Encoded:
    learned = (False,) * len(question) + (True,) * len(answer)
    starts = row.starts.within(len(question))
    return replace(row, tokens=(*question, *answer), learned=learned, starts=starts)
