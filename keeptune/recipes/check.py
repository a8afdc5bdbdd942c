"""`keeptune check`: every source read, every row accounted for, and what a row looks like to the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.errors import DataError, RecipeError
from keeptune.core.example import Example
from keeptune.data.decontaminate import overlap
from keeptune.data.encode import EncodedSet, encode_all, encoder_of
from keeptune.data.formats import FileFormat
from keeptune.data.read import read_examples
from keeptune.data.view import TokenView, check_view
from keeptune.recipes.material import context_length
from keeptune.recipes.recipe import Recipe, load_recipe, recipe_path
from keeptune.recipes.sources import Source, read_sources
from keeptune.recipes.workshop import Workshop

if TYPE_CHECKING:
    from keeptune.models.load import Loaded

SHOWN_ROWS, SHOWN_PROBLEMS = 3, 10
STYLES = {"learned": "\033[1;32m", "seen": "\033[2m", "cut": "\033[9;31m"}


@dataclass
class SourceCheck:
    """What was found in one source."""

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: list[list[TokenView]] = field(default_factory=list)


def check(recipe: str | Path, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Checks a recipe from Python; see `check_recipe`."""
    import json

    return check_recipe(str(recipe), [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()])


def check_recipe(name: str, settings: list[str], row: int | None = None) -> dict[str, Any]:
    """Reads and encodes every source; nothing is trained and nothing is written.

    Args:
        name: file or name of the recipe.
        settings: `--set` overrides.
        row: show this row (0-based, of each source) instead of the first three.

    Raises:
        DataError: training on this data would be wrong (bad rows, nothing to learn, a file that cannot be read).
        RecipeError: the recipe is wrong, or no source has that row.
    """
    recipe, folder = load_recipe(name, settings), recipe_path(name).parent
    loaded = Workshop().shared(recipe.model.checkpoint)
    bad = _bad_rows(recipe, folder)
    if bad:
        listed = "\n".join(f"  - {error}" for error in bad[:SHOWN_PROBLEMS])
        rest = f"\n  - and {len(bad) - SHOWN_PROBLEMS} more" if len(bad) > SHOWN_PROBLEMS else ""
        raise DataError(f"{len(bad)} bad rows:\n{listed}{rest}", code=bad[0].code, where=bad[0].where, fix=bad[0].fix)
    sources = read_sources(recipe, folder)
    trained = dict.fromkeys(name for stage in recipe.stages for name in stage.sources() if name in sources)
    checks = [_check(sources[name], recipe, loaded, row) for name in trained]
    if row is not None and not any(check.rows for check in checks):
        raise RecipeError(f"no source has a row {row}.", code="E-USAGE", fix="Rows are counted from 0.")
    return _result(name, checks, _leaks(sources))


def _bad_rows(recipe: Recipe, folder: Path) -> list[DataError]:
    bad: list[DataError] = []
    for name, source in recipe.data.items():
        if isinstance(source, FileFormat):
            reading = read_examples(source, name, folder=folder, gather=True)
            bad += reading.bad if reading.counts["bad"] > source.skip_bad else ()
    return bad


def _check(source: Source, recipe: Recipe, loaded: Loaded, row: int | None) -> SourceCheck:
    context = context_length(loaded)
    encoded: EncodedSet = encode_all(
        source.train, loaded.tokenizer, too_long=recipe.too_long, context=context, template=recipe.template, gather=True
    )
    encoder = encoder_of(loaded.tokenizer, recipe.template, loaded.anatomy.kind)
    chosen: tuple[Example, ...] = source.train[:SHOWN_ROWS] if row is None else source.train[row : row + 1]
    return SourceCheck(
        name=source.name,
        counts={**source.counts, **source.split_counts(), **{f"encoded {k}": v for k, v in encoded.counts.items()}},
        lengths=[len(item.tokens) for item in encoded.rows],
        problems=[str(problem) for problem in encoded.problems],
        notes=list(encoded.notes),
        rows=[check_view(encoder.encode(example), loaded.tokenizer, context) for example in chosen],
    )


def _leaks(sources: dict[str, Source]) -> dict[str, Any]:
    train = [example for source in sources.values() for example in source.train]
    test = [example for source in sources.values() for example in (*source.test, *source.dev)]
    return overlap(train, test).counts() if train and test else {}


def _result(name: str, checks: list[SourceCheck], leaks: dict[str, Any]) -> dict[str, Any]:
    lines: list[str] = []
    for found in checks:
        lines += [found.name, "  " + ", ".join(f"{key} {value:,}" for key, value in found.counts.items() if value)]
        lines += _histogram(found.lengths)
        lines += [f"  note: {note}" for note in found.notes]
        lines += [f"  {problem}" for problem in found.problems[:SHOWN_PROBLEMS]]
        for view in found.rows:
            lines += ["", "  " + "".join(_coloured(token) for token in view).replace("\n", "\n  ")]
        lines.append("")
    if leaks:
        lines.append("test rows found in train: " + ", ".join(f"{key} {value}" for key, value in leaks.items()))
    lines.append(f"{STYLES['learned']}learned\033[0m  {STYLES['seen']}seen\033[0m  {STYLES['cut']}cut\033[0m")
    lines.append(f"\nNext: keeptune run {name}")
    plain = [
        {
            "name": found.name, "counts": found.counts, "problems": found.problems, "notes": found.notes,
            "rows": [[{"id": t.id, "text": t.text, "state": t.state} for t in view] for view in found.rows],
        }
        for found in checks
    ]  # fmt: skip
    return {"sources": plain, "leaks": leaks, "text": "\n".join(lines)}


def _histogram(lengths: list[int], bars: int = 8, width: int = 40) -> list[str]:
    """Lengths in tokens, as bars of characters."""
    if not lengths:
        return []
    low, high = min(lengths), max(lengths)
    step = max(1, -(-(high - low + 1) // bars))
    counts = [sum(start <= length < start + step for length in lengths) for start in range(low, high + 1, step)]
    most = max(counts)
    lines = []
    for index, count in enumerate(counts):
        first, last = low + index * step, min(high, low + (index + 1) * step - 1)
        lines.append(f"  {first:>6}-{last:<6} {'█' * round(width * count / most):<{width}} {count:,}")
    return lines


def _coloured(token: TokenView) -> str:
    return f"{STYLES[token.state]}{token.text}\033[0m"
