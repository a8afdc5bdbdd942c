"""`keeptune check`: every source read, every row accounted for, and what a row looks like to the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keeptune.core.disk import prepare_output
from keeptune.core.errors import DataError, RecipeError
from keeptune.core.files import atomic_write
from keeptune.data.bare_requests import BARE, asked_bare
from keeptune.data.decontaminate import TestRows
from keeptune.data.formats.generated import Generated
from keeptune.data.label_set import LABELLED
from keeptune.data.survey import Survey
from keeptune.recipes.at_hand import require_at_hand
from keeptune.recipes.check_page import check_page, check_text
from keeptune.recipes.examine import Base, Examined, examine
from keeptune.recipes.feed import Feed, feeds_of, surveys_of
from keeptune.recipes.recipe import Recipe, load_recipe, recipe_path
from keeptune.recipes.suspicions import label_fault, label_notes, leak
from keeptune.recipes.weights_dtype import with_dtype
from keeptune.stages._progress import Progress
from keeptune.stages.train import Train

SHOWN_BAD = 10
ROWS_PER_STEP = 1000


def check(recipe: str | Path, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Checks a recipe from Python; see `check_recipe`.

    Raises:
        DataError: also what `check_recipe` returns as a fault.
    """
    import json

    settings = [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()]
    result, fault = check_recipe(str(recipe), settings, quiet=True)
    if fault is not None:
        raise fault
    return result


def check_recipe(
    name: str, settings: list[str], row: int | None = None, html: Path | None = None, *, quiet: bool = False
) -> tuple[dict[str, Any], DataError | None]:
    """Reads and encodes every source; nothing is trained, and nothing is written but `html`.

    Files are read two or three times instead of being held: memory grows by some 400 bytes a training row, and by the
    rows that are measured.

    Args:
        name: file or name of the recipe.
        settings: `--set` overrides.
        row: show this row (0-based, of each source) instead of the first three.
        html: writes the same view as a page.
        quiet: no progress bar.

    Returns:
        The report as plain data and `text`, and the reason why training on this data would be wrong, if there is one.

    Raises:
        DataError: no report can be made (bad rows, nothing to learn, a file that cannot be read).
        RecipeError: the recipe is wrong, or no source has that row.
        MachineError: `html` cannot be written (E-OUTPUT-PLACE).
    """
    if html is not None:
        prepare_output(html, new=False)
    recipe, folder = load_recipe(name, settings), recipe_path(name).parent
    require_at_hand(recipe, folder)
    progress = Progress(quiet=quiet)
    surveys = surveys_of(recipe, folder, progress.say)
    _refuse_bad_rows(recipe, surveys)
    recipe, dtype = with_dtype(recipe)
    base = Base.of(recipe.model.checkpoint)
    feeds = feeds_of(recipe, folder, surveys)
    trained = dict.fromkeys(name for stage in recipe.stages for name in stage.sources() if name in feeds)
    held = [example for feed in feeds.values() for example in feed.held]
    tests = TestRows(held)
    checks = []
    for source in trained:
        with _counting(progress, feeds[source]) as step:
            checks.append(examine(feeds[source], recipe, base, tests, row, step))
    if row is not None and not any(check.rows for check in checks):
        most = max((check.counts["encoded kept"] for check in checks), default=0)
        fix = f"Rows to learn are counted from 0; the largest source has {most:,}."
        raise RecipeError(f"no source has a row {row}.", code="E-USAGE", fix=fix)
    leaks = tests.overlap()
    fault = leak(leaks, held) if recipe.leaks == "refuse" else None
    fault = _labels(recipe, checks, feeds) or fault
    _small(recipe, checks)
    result = {
        "sources": [found.to_dict() for found in checks],
        "made_later": sorted(name for name, source in recipe.data.items() if isinstance(source, Generated)),
        "leaks": leaks.counts() if held else {},
        "leaking": [
            {"kind": kind, "source": held[row].source, "line": held[row].line, "id": held[row].id}
            for kind in ("exact", "near", "ngram") for _, row in getattr(leaks, kind)[:3]
        ],
        "notes": [f"dtype {dtype}"] if dtype.remedy else [],
        "fault": None if fault is None else fault.to_dict(),
    }  # fmt: skip
    if html is not None:
        atomic_write(html, check_page(name, checks, result))
    return {**result, "text": check_text(name, settings, checks, result)}, fault


def _refuse_bad_rows(recipe: Recipe, surveys: dict[str, Survey]) -> None:
    bad: list[DataError] = []
    counts: dict[str, int] = {}
    for name, seen in surveys.items():
        if seen.counts["bad"] > getattr(recipe.data[name], "skip_bad", 0):
            bad, counts[name] = [*bad, *seen.bad], seen.counts["bad"]
    total = sum(counts.values())
    if total == 1:
        raise bad[0]
    if bad:
        listed = "\n".join(f"  - {error}" for error in bad[:SHOWN_BAD])
        rest = f"\n  - and {total - SHOWN_BAD:,} more" if total > SHOWN_BAD else ""
        allow = " ".join(f"--set data.{name}.skip_bad={count}" for name, count in counts.items())
        raise DataError(
            f"{total:,} bad rows, the first of them here:\n{listed}{rest}\n", code=bad[0].code, where=bad[0].where,
            fix=f"Repair them, or leave all of them out with {allow}",
        )  # fmt: skip


class _counting:
    """A progress bar that moves every thousand rows."""

    def __init__(self, progress: Progress, feed: Feed) -> None:
        self._track = progress.track(f"{feed.name}, thousands of rows", max(1, feed.rows // ROWS_PER_STEP))
        self._done = 0

    def __enter__(self) -> Callable[[], None]:
        self._shown = self._track.__enter__()
        return self._step

    def _step(self) -> None:
        self._done += 1
        if self._done % ROWS_PER_STEP == 0:
            self._shown.advance()

    def __exit__(self, *error: Any) -> None:
        self._track.__exit__(*error)


def _labels(recipe: Recipe, checks: list[Examined], feeds: dict[str, Feed]) -> DataError | None:
    """The label set of the target's source, where labels are what is measured."""
    target = recipe.proof.target if recipe.proof else None
    if getattr(target, "metric", None) not in LABELLED:
        return None
    measured = feeds.get(str(getattr(target, "data", "")))
    if measured is None or not checks:
        return None
    own = next((found for found in checks if found.name == measured.name), None)
    answers = own.answers if own else sum((found.answers for found in checks), Counter())
    notes = (own or checks[0]).notes
    notes += label_notes(answers, measured.held)
    notes += [BARE] if _writes(recipe) and asked_bare(measured.held, answers) else []
    return label_fault((own or checks[0]).name, answers, measured.held)


def _writes(recipe: Recipe) -> bool:
    """Whether the labels are learned as text."""
    return any(loss.name == "next_token" for one in recipe.stages if isinstance(one, Train) for loss in one.losses)


def _small(recipe: Recipe, checks: list[Examined]) -> None:
    for stage in recipe.stages:
        for found in checks if isinstance(stage, Train) else ():
            tokens = sum(found.lengths)
            if found.name in stage.sources() and isinstance(stage, Train) and tokens < stage.batch_tokens:
                found.notes.append(
                    f"all {tokens:,} tokens are fewer than one batch of {stage.batch_tokens:,}: "
                    "each pass is a single step"
                )
