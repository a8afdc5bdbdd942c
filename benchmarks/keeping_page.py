"""Writes docs/results/keeping.md and its pictures from benchmarks/results/keeping.json.

python -m benchmarks.keeping_page
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from benchmarks import keeping_pictures as pictures
from benchmarks.record import RESULTS
from keeptune.core.files import atomic_write, make_folder
from keeptune.report.words import points

DOCS = RESULTS.parent.parent / "docs" / "results"
RECORD, PAGE = RESULTS / "keeping.json", DOCS / "keeping.md"
REPLAY = ("sft", "text_1", "text_5")
CURES = ("sft", "text_5", "kl_text_5", "chats_10", "kl_chats_10")
FEWEST_CELLS = 5
"""Below which a rank correlation says nothing."""
Row = Mapping[str, Any]


def page(record: Row) -> str:
    """The document; a section whose arms were not run is left out."""
    own = _own_rate(record)
    cures = [name for name in CURES if name in own]
    parts = [_head(record), _plane(record)]
    parts += [_form_first(record)] if record["curves"] or record["matched"] else []
    parts += [_replay(record)] if set(REPLAY) <= own.keys() else []
    parts += [_cures(record)] if len(cures) > 1 else []
    parts += [_kl(record)] if len(record["rows"]) >= FEWEST_CELLS else []
    return "\n\n".join([*parts, _every_cell(record)]) + "\n"


def drawn(record: Row) -> dict[str, str]:
    """The pictures by name."""
    own = _own_rate(record)
    cures = [own[name] for name in CURES if name in own]
    made = {"keeping_plane.svg": pictures.plane(record["plane"], record["base"])}
    if len(cures) > 1:
        made["keeping_losses.svg"] = pictures.losses(cures)
    if record["curves"]:
        made["keeping_curves.svg"] = pictures.curves(record["curves"], record["tokens"])
    return made


def reading(found: Row, *, sign: bool = True, unit: str = "") -> str:
    """A value with its interval, in points or per cent: `+3.1 (+1.0 to +5.2)`."""
    known = {key: found[key] if found[key] is None else round(found[key], 4) + 0.0 for key in ("value", "low", "high")}
    ends = {key: points(one, sign=sign) + unit for key, one in known.items()}
    return ends["value"] if found["low"] is None else f"{ends['value']} ({ends['low']} to {ends['high']})"


def told(found: Row, unit: str = "points") -> str:
    """A difference in words; where its interval holds nothing, the difference that would have been seen."""
    if found["value"] is None:
        return "not measured"
    shown = f"{reading(found)} {unit}"
    if found["low"] <= 0 <= found["high"]:
        return f"{shown}, not told apart; {points(found['visible'], sign=False)} would have been, four times in five"
    return shown


def _head(record: Row) -> str:
    base = record["base"]
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

Intervals are 90%, over clusters of items and seeds: {_listed(record["plane"][0]["seeds"])} in the first picture, 7, 8
and 9 elsewhere. A bootstrap over so few seeds is somewhat too narrow ([statistics](../statistics.md)). *Kept* is 100%
minus the greater of the ability lost and of the unrelated requests that are answered with a label."""


def _plane(record: Row) -> str:
    lines = _table(
        ["recipe", "task", "kept", "abilities lost", "format leak gained", "bits per byte"],
        [
            [f"`{row['arm']}`", reading(row["target"], sign=False, unit="%"), _kept(row["forgotten"]), *_lost(row)]
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
        words += ["![format leak and task score in training](keeping_curves.svg)", _looks(record)]
    rows = [
        [f"`{name}`", f"{points(found['level'], sign=False)}%", reading(found["first"], sign=False, unit="%"),
         reading(found["second"], sign=False, unit="%"), told(found["difference"])]
        for name, found in record["matched"].items() if found
    ]  # fmt: skip
    if rows:
        words += [
            "Kept where each path over the rates (0.3 and 1 times the recipe's, as far as they were run) first reaches "
            "the score that both reach. From the base to the lowest rate the path counts as straight, which flatters a "
            "recipe whose format jumps early:",
            _table(["recipe", "task score", "it keeps", "`sft` keeps", "difference"], rows),
        ]
    return "\n\n".join(words)


def _looks(record: Row) -> str:
    """When half of the requests leaked and what dev had then, and both at the last look; one figure per seed."""
    by_arm: dict[str, list[Sequence[Row]]] = {}
    for name, looks in record["curves"].items():
        by_arm.setdefault(name.rpartition("-")[0], []).append(looks)
    rows = []
    for arm, runs in by_arm.items():
        half = [next((look for look in looks if look["leak"] >= 0.5), None) for looks in runs]
        last = [looks[-1] for looks in runs]
        rows.append(
            [f"`{arm}`", ", ".join("never" if look is None else str(look["step"]) for look in half),
             *(", ".join("–" if look is None else _share(look[key]) for look in looks)
               for looks, key in ((half, "target"), (last, "leak"), (last, "target")))]
        )  # fmt: skip
    head = ["recipe", "half of the requests leak at step", "dev there", "leak at the last look", "dev there"]
    steps = round(record["tokens"] / 2048)
    note = (
        f"Looks at 30 requests and 30 dev rows every two steps, of {steps} in a run; one figure per seed. A curve ends "
        "when 95 points are lost."
    )
    if "promot" in by_arm:
        note += (
            " ProMoT spends the first half of its tokens on the prompt, with the model frozen; its answers to requests "
            "are given with the prompt off, as it is off the task; its steps are those of the second stage."
        )
    return f"{_table(head, rows)}\n\n{note}"


def _replay(record: Row) -> str:
    own = _own_rate(record)
    rows = [[pictures.NAMES[name] if name != "sft" else "none", *_lost(own[name])] for name in REPLAY if name in own]
    steps = [one for one in record["differences"] if one["first"][0] in REPLAY and one["second"][0] in REPLAY]
    bits = [one for one in steps if one["what"] == "bits_rise"]
    values = [own[name]["bits_rise"]["value"] for name in REPLAY if name in own]
    falls = all(after < before for before, after in pairwise(values))
    lines = "\n".join(f"- {_pair(one)}: {told(one, 'per cent of bits per byte')}." for one in bits)
    return f"""## Replay of the base's own text: 0, 1 and 5% of the tokens

{_table(["replay", "abilities lost", "format leak gained", "bits per byte"], rows)}

The mean rise of the bits per byte {"falls" if falls else "does not fall"} with every step. Step by step:

{lines}"""


def _cures(record: Row) -> str:
    own = _own_rate(record)
    rows = [
        [pictures.NAMES[name] if name != "sft" else "none (`sft`)", reading(own[name]["target"], sign=False, unit="%"),
         *_lost(own[name])]
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

{_table(["replayed", "task", "abilities lost", "format leak gained", "bits per byte"], rows)}

{lines}"""


def _kl(record: Row) -> str:
    found = record["kl_predicts"]
    names = {"forgotten": "what was forgotten", "ability_lost": "abilities lost", "leak_gained": "format leak gained",
             "bits_rise": "rise of the bits per byte"}  # fmt: skip
    rows = [[says, _plain(found[key])] for key, says in names.items()]
    return f"""## Does the KL to the base tell what is forgotten?

Spearman's rank correlation over {found["n"]} cells (recipes and rates) of the mean KL to the base on the task's own
answers with each loss; the interval holds for these cells and says nothing of other recipes.

{_table(["with", "rank correlation"], rows)}"""


def _every_cell(record: Row) -> str:
    rows = [
        [f"`{row['arm']}`", f"{row['rate']:g}", reading(row["target"], sign=False, unit="%"), _kept(row["forgotten"]),
         *_lost(row), f"{row['kl_to_base']:.2f}"]
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

{_table(["arm", "times its rate", "task", "kept", "abilities lost", "leak gained", "bits per byte", "KL, nats"], rows)}

{arms}

{hours:.1f} hours of training and measuring beside other work, on {record["machine"]["processor"]}."""


def _own_rate(record: Row) -> dict[str, Row]:
    return {row["arm"]: row for row in record["rows"] if row["rate"] == 1.0}


def _lost(row: Row) -> list[str]:
    return [reading(row["ability_lost"]), reading(row["leak_gained"]), reading(row["bits_rise"], unit="%")]


def _kept(lost: Row) -> str:
    kept = {"value": 1 - lost["value"], "low": 1 - lost["high"], "high": 1 - lost["low"]}
    return reading(kept, sign=False, unit="%")


def _pair(one: Row) -> str:
    first, second = (pictures.NAMES[cell[0]] for cell in (one["first"], one["second"]))
    return f"{first}, against {second}"


def _share(value: float) -> str:
    return f"{100 * value:.0f}%"


def _plain(found: Row) -> str:
    if found["low"] is None:
        return "–" if found["value"] is None else f"{found['value']:.2f}"
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})".replace("-", "−")


def _listed(seeds: Sequence[int]) -> str:
    return f"{', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Writes the page and the pictures."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    make_folder(DOCS)
    atomic_write(PAGE, page(record))
    for name, text in drawn(record).items():
        atomic_write(DOCS / name, text)


if __name__ == "__main__":
    main()
