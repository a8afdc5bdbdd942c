"""`keeptune data evolve`: synthetic instructions from a model of this machine; every dropped row is counted by rule."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from keeptune.core.cache import cache_folder
from keeptune.core.counting import counted
from keeptune.core.disk import prepare_output
from keeptune.core.errors import DataError, RecipeError
from keeptune.core.files import atomic_write
from keeptune.core.typed import typed
from keeptune.data.formats.generated import Generated
from keeptune.data.guess import guess_format
from keeptune.data.read import read_examples
from keeptune.recipes.evol_instruct import evolve
from keeptune.recipes.recipe import Model
from keeptune.recipes.self_instruct import self_instruct
from keeptune.recipes.self_text import self_text
from keeptune.recipes.workshop import Workshop
from keeptune.recipes.writers import Writer, writer_of

How = Literal["self_instruct", "evolve", "replay"]
ROUNDS = 4


def evolve_file(
    seeds: Path | None, output: Path, how: How, model: str, *, rows: int, seed: int, max_tokens: int = 256
) -> dict[str, Any]:
    """Writes synthetic rows as JSON Lines.

    Args:
        seeds: tasks to begin with, in any format with a request; `replay` needs none.
        output: for the rows.
        how: `self_instruct` writes new tasks, `evolve` makes the given ones deeper or rarer, `replay` keeps what the
            model says of its own accord.
        model: pocket, a folder, a hub id, or the address of a server on this machine.
        rows: most rows.
        seed: of all draws.
        max_tokens: of one text.

    Raises:
        RecipeError: `output` exists, or `seeds` is missing.
        DataError: nothing was kept (E-EVOLVE-NOTHING), with the counts.
    """
    prepare_output(output)
    counts: Counter[str] = Counter()
    if how == "replay":
        made = list(_replay(model, rows, seed, max_tokens, counts))
    elif seeds is None:
        raise RecipeError(f"'{how}' begins with tasks.", code="E-USAGE", fix="Give a data file of them first.")
    else:
        given = read_examples(guess_format(str(seeds)).format, "seeds").examples
        tasks = list(dict.fromkeys(row.prompt[-1].content for row in given if row.prompt))
        made = list(_rows(how, tasks, writer_of(model, max_tokens), rows, seed, counts))
    if not made:
        raise DataError(
            "nothing that the model wrote was kept.", code="E-EVOLVE-NOTHING", where={"key": "--model"},
            why=_told(counts), fix="Use a model that follows instructions, or give it more tokens.",
        )  # fmt: skip
    atomic_write(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made))
    result = {"output": str(output), "rows": len(made), "counts": dict(counts)}
    following = typed("keeptune", "init", output)
    text = f"{counted(len(made), 'row')} written to {output}\n  {_told(counts)}\n\nNext: {following}"
    return {**result, "text": text}


def _rows(
    how: str, tasks: list[str], writer: Writer, rows: int, seed: int, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    if how == "self_instruct":
        for number, (task, answer) in enumerate(self_instruct(tasks, writer, rows, counts, seed=seed), start=1):
            yield _row(f"self-{number}", task, answer)
        return
    for number, (task, answer, turn) in enumerate(evolve(tasks[:rows], writer, ROUNDS, counts, seed=seed), start=1):
        if number > rows:
            return
        yield {**_row(f"evolved-{number}", task, answer), "round": turn}


def _replay(model: str, rows: int, seed: int, max_tokens: int, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    settings = Generated.model_validate({"rows": rows, "max_tokens": max_tokens, "chats": 1.0})
    loaded = Workshop().shared(Model(name=model).checkpoint)
    try:
        written = self_text(loaded, settings, "replay", seed=seed, cache=cache_folder(), say=lambda _: None)
    except DataError as error:
        if error.code != "E-DATA-GENERATED":
            raise
        return
    for example in written:
        counts["kept"] += 1
        if example.text is None:
            yield _row(example.id, example.prompt[-1].content, example.target)
        else:
            yield {"id": example.id, "text": example.text}


def _row(name: str, task: str, answer: str) -> dict[str, Any]:
    return {"id": name, "messages": [{"role": "user", "content": task}, {"role": "assistant", "content": answer}]}


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{key} {value:,}" for key, value in counts.items())
