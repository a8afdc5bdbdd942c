"""One source as training would see it: encoded row by row, counted, compared with itself and with the test rows."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.counting import counted
from keeptune.core.errors import DataError
from keeptune.data.decontaminate import TestRows, TrainedRow
from keeptune.data.digest_set import DigestSet
from keeptune.data.encode import encode_many, encoder_of, together
from keeptune.data.fitting import Fitting
from keeptune.data.minhash import NearDuplicates
from keeptune.data.view import TokenView, check_view
from keeptune.models.families import family_of
from keeptune.models.generation_stops import generation_stops
from keeptune.recipes.feed import Feed
from keeptune.recipes.material import longest_row
from keeptune.recipes.positions_left import left_for_text, positions_taken

if TYPE_CHECKING:
    from keeptune.core.checkpoint import Checkpoint
    from keeptune.models.family import Kind
    from keeptune.recipes.recipe import Recipe

SHOWN_ROWS = 3
MOST_ANSWERS = 10_000


@dataclass(frozen=True)
class Base:
    """How a base reads its rows; its weights are not needed for that.

    Attributes:
        tokenizer: None of an image encoder.
        kind: of the model, as `encoder_of`.
        context: longest row in tokens.
        folder: that it came from.
        config: its `config.json`.
    """

    tokenizer: Any
    kind: Kind
    context: int
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)

    def left_for(self, recipe: Recipe, source: str) -> int:
        """The longest row of a source under the recipe's adapters."""
        taken = positions_taken(recipe, self.config, self.tokenizer) if self.config else {}
        return left_for_text(self.context, taken.get(source, 0))

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Base:
        """The base of a checkpoint.

        Raises:
            ModelError, PlanError: as `keeptune.models.load.look`.
        """
        from keeptune.models.load import folder_of, look

        config, tokenizer = look(checkpoint.base, checkpoint.revision)
        folder = folder_of(checkpoint.base, checkpoint.revision)
        return cls(tokenizer, family_of(config).kind, longest_row(config), folder, config)


@dataclass
class Examined:
    """What was found in one source.

    Attributes:
        counts: of reading, split, encoding and duplicates.
        lengths: tokens of every row that is trained.
        problems: rows that are cut, dropped or split, the first hundred.
        notes: what the user should know.
        rows: a few rows, token by token.
        answers: how often each answer comes, as long as there are at most 10,000 different ones.
    """

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    lengths: array[int] = field(default_factory=lambda: array("L"))
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: list[list[TokenView]] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, each length left out."""
        views = [[{"id": token.id, "text": token.text, "state": token.state} for token in view] for view in self.rows]
        told = {"name": self.name, "counts": self.counts, "problems": self.problems, "notes": self.notes}
        return {**told, "rows": views}


def examine(
    feed: Feed, recipe: Recipe, base: Base, tests: TestRows, row: int | None, step: Callable[[], None]
) -> Examined:
    """Goes through the training rows of one source once; memory grows by some 400 bytes a row.

    Args:
        feed: the source.
        recipe: its template and its policy for long rows.
        base: how it reads.
        tests: against which each row is held.
        row: show this row instead of the first three.
        step: called after each row.

    Raises:
        DataError: nothing can be learned from the source, or too much of it would be dropped.
    """
    encoder = encoder_of(base.tokenizer, recipe.template, base.kind)
    context = base.left_for(recipe, feed.name)
    fitting = Fitting(recipe.too_long, context, encoder, hold=False)
    found = Examined(feed.name, notes=list(feed.notes))
    twins = Twins()
    first = 0
    for group in together(feed.train()):
        for index, example in enumerate(group, first):
            seen = TrainedRow(example)
            tests.see(index, seen)
            twins.see(seen)
            if len(found.answers) <= MOST_ANSWERS and example.text is None:
                found.answers[example.target.strip()] += 1
        rows = encode_many(encoder, group, pairs=feed.name in recipe.paired)
        for index, (example, encoded) in enumerate(zip(group, rows, strict=True), first):
            if isinstance(encoded, DataError):
                fitting.refuse(encoded, example)
            else:
                shown = index == row or (row is None and index < SHOWN_ROWS)
                before = fitting.counts.copy() if shown else fitting.counts
                fitting.add(encoded, example)
                if shown:
                    used = _used(before, fitting.counts, context)
                    found.rows += [check_view(ending, base.tokenizer, used) for ending in encoded.endings]
            step()
        first += len(group)
    fitted = fitting.result(0.5)
    found.lengths, found.problems = fitting.lengths, [str(problem) for problem in fitted.problems]
    duplicates, told = twins.close()
    found.notes += [*fitted.notes, *told, *_end_of_turn(fitted.counts, encoder, base)]
    found.counts = {**feed.counts, **duplicates, **{f"encoded {key}": value for key, value in fitted.counts.items()}}
    return found


def _used(before: Counter[str], after: Counter[str], context: int) -> int | None:
    """How many tokens of the row between two counts are used: none, all (in several rows), or what fits."""
    if after["dropped"] > before["dropped"]:
        return 0
    return None if after["split"] > before["split"] else context


class Twins:
    """Rows that ask what an earlier row asked, exactly or nearly."""

    def __init__(self) -> None:
        self._asked = DigestSet()
        self._near = NearDuplicates()
        self._seen = 0
        self.exact = 0

    def see(self, row: TrainedRow) -> None:
        """Takes the next row."""
        self._seen += 1
        if self._asked.add(hash(row.asked)):
            self._near.add(row.example.line or self._seen, row.near_runs)
        else:
            self.exact += 1

    def close(self) -> tuple[dict[str, int], list[str]]:
        """Counts of `duplicates` and `near duplicates`, and a note that names the first near ones by their lines."""
        pairs = sorted(self._near.pairs().items())
        counts = {"duplicates": self.exact, "near duplicates": len(pairs)}
        if not any(counts.values()):
            return counts, []
        shown = ", ".join(f"lines {earlier} and {later}" for later, earlier in pairs[:3])
        example = f"; near, for example: {shown}" if pairs else ""
        exact = counted(self.exact, "row asks", "rows ask")
        return counts, [f"{exact} what an earlier row asks, {len(pairs):,} nearly that{example}"]


def _end_of_turn(counts: Any, encoder: Any, base: Base) -> list[str]:
    """Whether the model learns to stop, and whether other programs will hear it."""
    if encoder.used_chat is None:
        return []
    whole = counts["kept"] - counts["split"]
    closed, end = whole - counts["open_ended"], encoder.tokenizer.convert_ids_to_tokens(encoder.end_id)
    notes = [f"the end of the turn ({end}) is learned in {closed:,} of {counted(whole, 'whole row')}"]
    stops = generation_stops(base.folder)
    if stops and stops.isdisjoint(encoder.chat.end_ids):
        notes.append(
            f"the chat template ends a turn with {end}, the model's own settings stop at {sorted(stops)}: other "
            f"programs would write on behind an answer; add {encoder.end_id} to eos_token_id in generation_config.json"
        )
    return notes
