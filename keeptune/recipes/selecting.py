"""`keeptune data select`: rows chosen by a selector, beside what chance would have chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from keeptune.core.cache import cache_folder
from keeptune.core.counting import counted
from keeptune.core.disk import prepare_output
from keeptune.core.errors import DataError, RecipeError
from keeptune.core.example import Example
from keeptune.core.files import atomic_write
from keeptune.core.spec import validate
from keeptune.core.typed import typed
from keeptune.data.guess import guess_format
from keeptune.data.read import read_examples
from keeptune.recipes.overrides import with_overrides
from keeptune.recipes.recipe import Model
from keeptune.recipes.workshop import Workshop
from keeptune.selectors import Context, Selection, Selector
from keeptune.selectors._appraisal import Appraisal, Appraiser
from keeptune.selectors.encoders import Encoder
from keeptune.selectors.random import Random

CONTROLS = 5
SHOWN, SHOWN_LETTERS = 3, 80
LONGER = 1.25
ROWS = {
    "radius": "coverage radius",
    "distance": "mean distance to the nearest chosen",
    "nearest_query": "cosine to the nearest query",
    "words": "words of a row, median",
    "answer_words": "words of an answer, median",
    "answers": "different answers",
}


@dataclass(frozen=True)
class Wanted:
    """What `data select` is asked for.

    Attributes:
        by: a selector's name.
        rows: how many; None: `share`.
        share: how much; None: the selector's own.
        model: for encoders and selectors that read one; None: words are compared.
        encoder: by name; None: the selector's own pooling where there is a model, else `tfidf`.
        settings: of the selector, `key=value`.
        seed: of the selector; the controls take the five after it.
    """

    by: str
    rows: int | None = None
    share: float | None = None
    model: str | None = None
    encoder: str | None = None
    settings: Sequence[str] = ()
    seed: int = 0

    def selector(self) -> Selector:
        """The selector with its settings.

        Raises:
            RecipeError: no selector of that name, an unknown setting, or two sizes (E-USAGE).
        """
        if self.rows is not None and self.share is not None:
            what = "how many rows are kept is said twice, by --rows and by --share."
            raise RecipeError(what, code="E-USAGE", fix="Give one of them.")
        size = {"rows": self.rows, "share": self.share}
        plain = with_overrides({"name": self.by}, list(self.settings))
        made: Selector = validate(Selector, {**plain, **{key: one for key, one in size.items() if one is not None}})
        return made

    def embedder(self, selector: Selector) -> Encoder:
        """How examples become vectors."""
        made: Encoder = validate(Encoder, self.encoder or (selector.pooling if self.model else "tfidf"))
        return made


def select_files(files: Sequence[Path], output: Path, wanted: Wanted, *, queries: Path | None = None) -> dict[str, Any]:
    """Chooses rows of data files, writes them as JSON Lines, and sets the choice beside five random ones of its size.

    Rows that the file itself holds out (`split: test`, `split: dev`) are never chosen.

    Args:
        files: data files of any format; each is a source of its own.
        output: for the rows, best or first chosen first; what was decided stands under `selected`.
        wanted: selector, size, model.
        queries: examples of what the model is to become good at.

    Raises:
        DataError: a file cannot be read, or the selector has nothing to choose (E-SELECT-*).
        PlanError: the selector or the encoder needs a model and has none (E-SELECT-MODEL).
        RecipeError: unknown selector or setting, or `output` exists.
    """
    prepare_output(output)
    selector = wanted.selector()
    encoder = wanted.embedder(selector)
    examples, held_out = _examples(files)
    asked = _examples([queries])[0] if queries else []
    context = _context(examples, asked, encoder, wanted)
    found = selector.select(examples, context)
    assert context.embeddings is not None, "made by _context"
    appraise = Appraiser(examples, context.embeddings, context.query_embeddings)
    control = Random(rows=len(found.indices), share=1.0)
    seeds = [wanted.seed + 1 + number for number in range(CONTROLS)]
    drawn = [appraise(control.select(examples, Context(seed=seed)).indices) for seed in seeds]
    _write(output, examples, found, wanted.by)
    report = {
        "output": str(output), "selector": selector.to_dict(), "encoder": encoder.to_dict(), "model": wanted.model,
        "seed": wanted.seed, "examples": len(examples), "held_out": held_out, "queries": len(asked),
        "chosen": len(found.indices), "all": appraise(range(len(examples)))._asdict(),
        "selected": appraise(found.indices)._asdict(),
        "random": {"seeds": seeds, **{key: [getattr(one, key) for one in drawn] for key in Appraisal._fields}},
        "first": [_shown(examples[i], found.reasons[rank]) for rank, i in enumerate(found.indices[:SHOWN])],
    }  # fmt: skip
    return {**report, "text": _text(report)}


def dedupe_files(files: Sequence[Path], output: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the first of rows that say the same, or nearly the same, as JSON Lines.

    Rows that the file itself holds out are left out, as by `select_files`.

    Args:
        files: data files of any format; each is a source of its own.
        output: for the rows, in their order; how many a row stands for is its score under `selected`.
        settings: of the selector `dedupe`, `key=value`.

    Raises:
        DataError: a file cannot be read, or it holds out every row.
        RecipeError: an unknown setting, or `output` exists.
    """
    prepare_output(output)
    selector = Wanted("dedupe", settings=settings).selector()
    examples, held_out = _examples(files)
    found = selector.select(examples, Context())
    _write(output, examples, found, "dedupe")
    largest = sorted(range(len(found.indices)), key=lambda rank: -found.scores[rank])[:SHOWN]
    result: dict[str, Any] = {
        "output": str(output), "examples": len(examples), "held_out": held_out, "kept": len(found.indices),
        "largest": [_shown(examples[found.indices[i]], found.reasons[i]) for i in largest if found.scores[i] > 1],
    }  # fmt: skip
    rest = f", {held_out:,} held out by the file" if held_out else ""
    told = [f"  {one['reason']}: {one['text']}" for one in result["largest"]]
    dropped = len(examples) - len(found.indices)
    lines = [
        f"{counted(len(examples), 'example')}{rest}; {counted(dropped, 'says', 'say')} what an earlier one says",
        *told,
        "",
    ]
    lines.append(f"{counted(len(found.indices), 'row')} written to {output}\nNext: {typed('keeptune', 'init', output)}")
    return {**result, "text": "\n".join(lines)}


def _write(output: Path, examples: Sequence[Example], found: Selection, by: str) -> None:
    lines = (_line(examples[index], by, rank, found) for rank, index in enumerate(found.indices))
    atomic_write(output, "".join(lines))


def _examples(files: Sequence[Path]) -> tuple[list[Example], int]:
    """Rows that may be trained on, and how many the files hold out."""
    short = len({path.name for path in files}) == len(files)
    named = {path: path.name if short else str(path) for path in files}
    found = [row for path in files for row in read_examples(guess_format(str(path)).format, named[path]).examples]
    free = [row for row in found if row.part in ("", "train")]
    if not free:
        raise DataError(
            "every row is held out by its own `split`.", code="E-SELECT-EMPTY", where={"file": files[0]},
            fix="Name a file with training rows.",
        )  # fmt: skip
    return free, len(found) - len(free)


def _context(examples: Sequence[Example], asked: Sequence[Example], encoder: Encoder, wanted: Wanted) -> Context:
    """With vectors of one encoding for examples and queries."""
    from keeptune.models.tensor_store import TensorStore

    loaded = Workshop().shared(Model(name=wanted.model).checkpoint) if wanted.model else None
    context = Context(
        seed=wanted.seed, queries=asked, model=loaded, store=TensorStore(cache_folder() / "features")
    )  # fmt: skip
    vectors = encoder.encode([*examples, *asked], context)
    own, others = vectors[: len(examples)], vectors[len(examples) :]
    return Context(wanted.seed, own, asked, others if asked else None, loaded, context.store)


def _line(example: Example, by: str, rank: int, found: Selection) -> str:
    decided = {"by": by, "rank": rank + 1, "score": _finite(found.scores[rank]), "reason": found.reasons[rank]}
    row = {"id": example.id, **said(example), "source": example.source, "licence": example.licence}
    return json.dumps({**row, "selected": decided}, ensure_ascii=False) + "\n"


def said(example: Example) -> dict[str, Any]:
    """What an example says, in the columns that the formats read."""
    if example.text is not None:
        return {"text": example.text}
    turns = [turn.to_dict() for turn in example.messages]
    if example.rejected is not None:
        worse = {"role": "assistant", "content": example.rejected}
        return {"prompt": turns[:-1], "chosen": turns[-1:], "rejected": [worse]}
    return {"messages": turns}


def _finite(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None


def _shown(example: Example, reason: str) -> dict[str, str]:
    said = " ".join((example.text or " ".join(turn.content for turn in example.prompt) or example.target).split())
    return {"id": example.id, "reason": reason, "text": said[:SHOWN_LETTERS]}


def _text(report: dict[str, Any]) -> str:
    from keeptune.report.html import visible

    by, seeds = report["selector"]["name"], report["random"]["seeds"]
    encoder = report["encoder"]["name"] + (f" of {report['model']}" if report["model"] else "")
    rest = f", {report['held_out']:,} held out by the file" if report["held_out"] else ""
    share, wide = report["chosen"] / report["examples"], max(12, len(by))
    lines = [
        f"{counted(report['examples'], 'example')}{rest}; {by} chose {report['chosen']:,} ({share:.2%}); "
        f"vectors: {encoder}", "",
        f"  {'':<36} {by:>{wide}} {'random':>20} {'all':>9}",
    ]  # fmt: skip
    for key, name in ROWS.items():
        if report["selected"][key] is None:
            continue
        chance = report["random"][key]
        spread = f"{_number(fmean(chance))} ({_number(min(chance))}-{_number(max(chance))})"
        whole = "" if key in ("radius", "distance") else _number(report["all"][key])
        lines.append(f"  {name:<36} {_number(report['selected'][key]):>{wide}} {spread:>20} {whole:>9}")
    lines += ["", f"  random: mean and range of {len(seeds)} draws of the same size, seeds {seeds[0]}-{seeds[-1]}"]
    lines += [f"  {sentence}" for sentence in _cautions(report)]
    lines += ["", *(f"  {one['reason']}: {visible(one['text'])}" for one in report["first"])]
    return "\n".join(
        [*lines, "", f"Rows written to {report['output']}", f"Next: {typed('keeptune', 'init', report['output'])}"]
    )


def _cautions(report: dict[str, Any]) -> list[str]:
    """What would explain a better score without any merit of the rows."""
    found, there = [], report["examples"]
    if (wanted := report["selector"].get("rows") or 0) > there:
        found.append(f"{counted(wanted, 'row was', 'rows were')} asked for, and only {there:,} are there.")
    if report["chosen"] == there:
        return [*found, "every row was chosen, so that there is no choice to compare with chance."]
    ratio = (report["selected"]["words"] + 1) / (fmean(report["random"]["words"]) + 1)
    if not 1 / LONGER <= ratio <= LONGER:
        word = "long" if ratio > 1 else "short"
        found.append(f"length shift: the chosen rows are {ratio:.2g} times as long as random ones; more or fewer "
                     f"tokens, not better rows, may be what {word} rows bring.")  # fmt: skip
    if report["selector"]["name"] != "random" and report["selected"]["radius"] >= min(report["random"]["radius"]):
        found.append("they cover no better than chance does.")
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.3g}"
