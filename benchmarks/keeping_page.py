"""Writes docs/results/keeping.md and its pictures from benchmarks/results/keeping.json and keeping_plane.json.

python -m benchmarks.keeping_page
"""

from __future__ import annotations

import json
from itertools import pairwise

from benchmarks import keeping_larger
from benchmarks import keeping_pictures as pictures
from benchmarks.keeping_form import looks, matched
from benchmarks.keeping_words import Row, correlation, kept, listed, losses, reading, table, told
from benchmarks.record import RESULTS
from keeptune.core.files import atomic_write, make_folder
from keeptune.report.words import points

DOCS = RESULTS.parent.parent / "docs" / "results"
RECORD, LARGER, PAGE = RESULTS / "keeping.json", RESULTS / "keeping_plane.json", DOCS / "keeping.md"
REPLAY = ("sft", "text_1", "text_5")
CURES = ("sft", "text_5", "kl_text_5", "chats_10", "kl_chats_10")
FEWEST_CELLS = 5
"""Below which a rank correlation says nothing."""


def page(record: Row, larger: Row | None = None) -> str:
    """The document; a section whose arms were not run is left out."""
    own = _own_rate(record)
    cures = [name for name in CURES if name in own]
    parts = [_head(record), _plane(record)]
    parts += [_form_first(record)] if record["curves"] or record["matched"] else []
    parts += [keeping_larger.section(larger)] if larger else []
    parts += [_replay(record)] if set(REPLAY) <= own.keys() else []
    parts += [_cures(record)] if len(cures) > 1 else []
    parts += [_kl(record)] if len(record["rows"]) >= FEWEST_CELLS else []
    return "\n\n".join([*parts, _every_cell(record)]) + "\n"


def drawn(record: Row, larger: Row | None = None) -> dict[str, str]:
    """The pictures by name."""
    own = _own_rate(record)
    cures = [own[name] for name in CURES if name in own]
    made = {"keeping_plane.svg": pictures.plane(record["plane"], record["base"])}
    if len(cures) > 1:
        made["keeping_losses.svg"] = pictures.losses(cures)
    if record["curves"]:
        made["keeping_curves.svg"] = pictures.curves(record["curves"], record["tokens"])
    return made | (keeping_larger.drawn(larger) if larger else {})


def records() -> list[Row]:
    """Those that were taken: the first, and the one on twice the tokens."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in (RECORD, LARGER) if path.exists()]


def _head(record: Row) -> str:
    base = record["base"]
    few = (
        "The few seeds are stretched"
        if record.get("stretched")
        else "Drawn without stretching so few seeds, they are somewhat too narrow"
    )
    return f"""# What recipes keep

```sh
{record["command"]}
python -m benchmarks.keeping_page    # this page, from the record
```

pocket (5.9 million parameters) on the embedded task, by `keeptune study compare`: every run draws {record["tokens"]:,}
tokens, a prompt's first stage counted. {base["target_rows"]} test rows, {base["questions"]} questions of eight
abilities, {base["requests"]} unrelated requests, {base["documents"]} documents of three corpora. The base has
{points(base["target"], sign=False)}% of the task and {points(base["general"], sign=False)}% of the questions, and
answers {points(base["leak"], sign=False)}% of the requests with a label. Sizes, fixed before anything was looked at:
`{" ".join(record["settings"])}`. All seeds have the same rows; they move the order and what is drawn at the start.

Intervals are 90%, over clusters of items and seeds: {listed(record["plane"][0]["seeds"])} in the first picture, 7, 8
and 9 elsewhere. {few} ([statistics](../statistics.md)).
*Kept* is 100% minus the greater of the ability lost and of the unrelated requests that are answered with a label."""


def _plane(record: Row) -> str:
    lines = table(
        ["recipe", "task", "kept", "abilities lost", "format leak gained", "bits per byte"],
        [
            [f"`{row['arm']}`", reading(row["target"], sign=False, unit="%"), kept(row["forgotten"]), *losses(row)]
            for row in record["plane"]
        ],
    )
    start = record["base"]["target"]
    idle = [f"`{row['arm']}`" for row in record["plane"] if row["target"]["low"] <= start]
    note = f"\n\nOn the task not told apart from the base: {', '.join(idle)}." if idle else ""
    return f"""## Recipes at their own learning rate, the same tokens

![score on the task against what was kept](keeping_plane.svg)

{lines}{note}"""


def _form_first(record: Row) -> str:
    words = ["## Form before content, and ProMoT"]
    if record["curves"]:
        words += ["![format leak and task score in training](keeping_curves.svg)", looks(record)]
    if any(record["matched"].values()):
        words += [
            "Kept where each path over the rates (0.3 and 1 times the recipe's, as far as they were run) first reaches "
            "the score that both reach. From the base to the lowest rate the path counts as straight, which flatters a "
            "recipe whose format jumps early:",
            matched(record),
        ]
    return "\n\n".join(words)


def _replay(record: Row) -> str:
    own = _own_rate(record)
    rows = [[pictures.NAMES[name] if name != "sft" else "none", *losses(own[name])] for name in REPLAY if name in own]
    steps = [one for one in record["differences"] if one["first"][0] in REPLAY and one["second"][0] in REPLAY]
    bits = [one for one in steps if one["what"] == "bits_rise"]
    values = [own[name]["bits_rise"]["value"] for name in REPLAY if name in own]
    falls = all(after < before for before, after in pairwise(values))
    lines = "\n".join(f"- {_pair(one)}: {told(one, 'per cent of bits per byte')}." for one in bits)
    return f"""## Replay of the base's own text: 0, 1 and 5% of the tokens

{table(["replay", "abilities lost", "format leak gained", "bits per byte"], rows)}

The mean rise of the bits per byte {"falls" if falls else "does not fall"} with every step. Step by step:

{lines}"""


def _cures(record: Row) -> str:
    own = _own_rate(record)
    rows = [
        [pictures.NAMES[name] if name != "sft" else "none (`sft`)", reading(own[name]["target"], sign=False, unit="%"),
         *losses(own[name])]
        for name in CURES if name in own
    ]  # fmt: skip
    pairs = [one for one in record["differences"] if one["first"][0] in CURES and one["second"][0] in CURES]
    units = {"bits_rise": "per cent of bits per byte", "leak_gained": "points of leak"}
    lines = "\n".join(f"- {_pair(one)}: {told(one, units[one['what']])}." for one in pairs)
    return f"""## Two kinds of loss, two cures

Full tuning at 3e-4, beside replay of what the base wrote: documents (5% of the tokens, as in `text_replay`) or
conversations (10%, as in `instruction_replay`), learned as rows or held by a KL to the base (forward, weight 60, the
keep recipe's).

![the two kinds of loss](keeping_losses.svg)

{table(["replayed", "task", "abilities lost", "format leak gained", "bits per byte"], rows)}

{lines}"""


def _kl(record: Row) -> str:
    found = record["kl_predicts"]
    names = {"forgotten": "what was forgotten", "ability_lost": "abilities lost", "leak_gained": "format leak gained",
             "bits_rise": "rise of the bits per byte"}  # fmt: skip
    rows = [[says, correlation(found[key])] for key, says in names.items()]
    return f"""## Does the KL to the base tell what is forgotten?

Spearman's rank correlation over {found["n"]} cells (recipes and rates) of the mean KL to the base on the task's own
answers with each loss; the interval holds for these cells and says nothing of other recipes.

{table(["with", "rank correlation"], rows)}"""


def _every_cell(record: Row) -> str:
    rows = [
        [f"`{row['arm']}`", f"{row['rate']:g}", reading(row["target"], sign=False, unit="%"), kept(row["forgotten"]),
         *losses(row), f"{row['kl_to_base']:.2f}"]
        for row in record["rows"]
    ]  # fmt: skip
    run = {row["arm"] for row in record["rows"]}
    arms = "\n".join(
        f"- `{name}`: recipe `{base}`{''.join(f', `{setting}`' for setting in settings)}"
        for name, (base, *settings) in record["arms"].items()
        if name in run
    )
    hours = sum(row["seconds"] for row in record["rows"]) / 3600
    return f"""## Every cell, seeds 7, 8 and 9

{table(["arm", "times its rate", "task", "kept", "abilities lost", "leak gained", "bits per byte", "KL, nats"], rows)}

{arms}

{hours:.1f} hours of training and measuring beside other work, on {record["machine"]["processor"]}."""


def _own_rate(record: Row) -> dict[str, Row]:
    return {row["arm"]: row for row in record["rows"] if row["rate"] == 1.0}


def _pair(one: Row) -> str:
    first, second = (pictures.NAMES[cell[0]] for cell in (one["first"], one["second"]))
    return f"{first}, against {second}"


def main() -> None:
    """Writes the page and the pictures."""
    taken = records()
    make_folder(DOCS)
    atomic_write(PAGE, page(*taken))
    for name, text in drawn(*taken).items():
        atomic_write(DOCS / name, text)


if __name__ == "__main__":
    main()
