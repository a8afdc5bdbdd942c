"""Does `keeptune check` raise an alarm where there is no fault? Every file of four folders of real data.

    python -m benchmarks.real_data DATA            # writes its record and docs/results/real_data.md
    python -m benchmarks.real_data DATA --quick    # a few small files; prints

Each file goes the way of a user who knows nothing of it: `init` guesses, `check` looks. An alarm is a row called bad or
a refusal; each is listed, so that it can be looked up in the file. Counts of rows that are alike are told and refuse
nothing here. Questions without answers teach nothing and are left out by name.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import record
from keeptune.core.files import atomic_write
from keeptune.core.machine import calm_process
from keeptune.recipes.check import check_recipe
from keeptune.recipes.feed import surveys_of
from keeptune.recipes.recipe import load_recipe
from keeptune.recipes.start import write_recipe

Row = dict[str, Any]
FOLDERS = ("instructions", "dialogue", "math", "nlu")
NO_ANSWERS = ("ifeval", "mt_bench_questions", "vicuna_questions")
TOLD = {"svamp": "format: prompt_completion, prompt: [Body, Question], completion: Answer, numbers: true"}
"""What a user has to say, where two columns together are the question."""
RECIPE = """\
name: told
model: {{name: pocket}}
data:
  task: {{path: {file}, {told}}}
split: {{dev: 0.05, test: 0.2}}
stages: [{{name: train, method: lora, data: task, epochs: 1}}]
proof: {{target: {{data: task, metric: rouge_l}}}}
"""
PAGE = Path(__file__).parent.parent / "docs" / "results" / "real_data.md"
FEW = 6


def files(data: Path) -> Iterator[Path]:
    """Every file that holds answers."""
    for folder in FOLDERS:
        yield from (file for file in sorted((data / folder).iterdir()) if _name(file) not in NO_ANSWERS)


def look(file: Path, folder: Path) -> Row:
    """What is said of one file."""
    name, recipe = _name(file), folder / f"{_name(file)}.yaml"
    if name in TOLD:
        atomic_write(recipe, RECIPE.format(file=file.resolve(), told=TOLD[name]))
    else:
        write_recipe(file, "pocket", recipe)
    found, fault = check_recipe(str(recipe), [], quiet=True)
    counts = found["sources"][0]["counts"]
    bad = surveys_of(load_recipe(str(recipe)), folder)["task"].bad if counts["bad"] else []
    alarms = [str(error).replace(str(error.where["file"]), file.name) for error in bad]
    return {
        "what": f"{file.parent.name}/{name}",
        "rows": counts["read"],
        "bad": counts["bad"],
        "alike": [counts["duplicates"], counts["near duplicates"]],
        "long": counts["encoded long"],
        "leaks": [found["leaks"].get(kind, 0) for kind in ("exact", "near", "ngram")],
        "alarms": [*alarms, *([str(fault)] if fault else [])],
        "refused": fault is not None,
    }


def page(rows: list[Row]) -> str:
    """The result as a document."""
    about = (__doc__ or "").split("\n\n", 2)[2].strip()
    total, bad = sum(row["rows"] for row in rows), sum(row["bad"] for row in rows)
    refused = sum(row["refused"] for row in rows)
    lines = [
        "# Real data, checked",
        "",
        "```sh\npython -m benchmarks.real_data DATA\n```",
        "",
        about,
        "",
        f"{len(rows)} files, {total:,} rows: {bad} rows are called bad, {refused} files are refused.",
        "",
        "| file | rows | bad | asked twice: exactly, nearly | too long | held out and trained: same, near, 13 words |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        alike, leaks = (", ".join(f"{count:,}" for count in row[key]) for key in ("alike", "leaks"))
        lines.append(f"| {row['what']} | {row['rows']:,} | {row['bad']} | {alike} | {row['long']:,} | {leaks} |")
    said = [f"- {row['what']}: {alarm}" for row in rows for alarm in row["alarms"]]
    return "\n".join([*lines, "", "Every alarm:", "", *(said or ["- none"])]) + "\n"


def _name(file: Path) -> str:
    return file.name.split(".")[0]


def main() -> int:
    """Looks at every file and writes the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    record.without_paths(DATA=asked.data)
    calm_process()
    with tempfile.TemporaryDirectory() as made:
        os.environ["XDG_CACHE_HOME"] = made
        chosen = sorted(files(asked.data), key=lambda file: file.stat().st_size)
        rows = [look(file, Path(made)) for file in (chosen[:FEW] if asked.quick else files(asked.data))]
    text = page(rows)
    print(text)
    record.write("real_data", rows, seeds=[7], quick=asked.quick)
    if not asked.quick:
        atomic_write(PAGE, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
