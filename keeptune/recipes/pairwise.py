"""`keeptune pairwise`: the answers of two checkpoints side by side, judged by a local model or by people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.counting import counted
from keeptune.core.errors import DataError, MachineError, RecipeError
from keeptune.core.example import Message
from keeptune.core.files import atomic_write, json_bytes, make_folder, write_json
from keeptune.core.typed import typed
from keeptune.data.lines import read_lines
from keeptune.data.source_file import open_source, unzipping
from keeptune.data.suite import stable_id
from keeptune.evaluations import Context
from keeptune.evaluations._free_answers import free_answers, refuse_long
from keeptune.evaluations._judge import Duel, agreed, judged
from keeptune.recipes.proof import checkpoint_from, pair_from
from keeptune.recipes.workshop import Workshop
from keeptune.report.words import points
from keeptune.statistics.preference import Outcome, Preference, in_both_orders, preference

SHEET, KEY = "sheet.jsonl", "key.json"
LINE_BYTES = 1 << 20


def pairwise_command(
    before: str | None,
    after: str | None,
    prompts: Path | None,
    output: Path,
    *,
    judge: str | None = None,
    votes: Path | None = None,
    most: int = 200,
) -> dict[str, Any]:
    """What the command line asks for: a sheet's votes, or two models and their prompts.

    Raises:
        RecipeError: neither is whole (E-USAGE).
    """
    if votes is not None:
        return count_votes(votes)
    if before is None or after is None or prompts is None:
        raise RecipeError(
            "two models and --prompts are needed, or --votes.", code="E-USAGE",
            fix="keeptune pairwise BEFORE AFTER --prompts FILE [--judge MODEL]",
        )  # fmt: skip
    return pairwise(before, after, prompts, output, judge=judge, most=most)


def pairwise(
    before: str,
    after: str,
    prompts: Path,
    output: Path,
    *,
    judge: str | None = None,
    most: int = 200,
    max_new_tokens: int = 128,
) -> dict[str, Any]:
    """Answers every prompt with both and has them judged, or writes a blind sheet for people.

    Args:
        before: a model, as in `prove`.
        after: the other.
        prompts: one request a line.
        output: folder of the answers and the result.
        judge: a local model that compares them in both orders; without it, `sheet.jsonl` asks people: every pair
            stands there in both orders, and a column `better` (A, B or tie) is to be filled in.
        most: prompts that are used, the first ones.
        max_new_tokens: longest answer.

    Raises:
        DataError: there are no prompts (E-DATA-NOROWS), one is too long (E-DATA-LONG), or the file cannot be read.
        MachineError: a sheet with votes is in the way (E-OUTPUT-EXISTS).
    """
    requests = _requests(prompts)[:most]
    if judge is None:
        _keep_votes(output)
    base, adapted = pair_from(before, after)
    workshop = Workshop()
    context = Context(subject=workshop.subject, base=base)
    said = [_answers(side, requests, max_new_tokens, context) for side in (base, adapted)]
    duels = [Duel(*row) for row in zip(requests, *said, strict=True)]
    make_folder(output)
    if judge is None:
        _write_sheet(duels, output)
        then = typed("keeptune", "pairwise", "--votes", output)
        text = f"{2 * len(duels)} comparisons to judge: {output / SHEET}\nthen        {then}"
        return {"pairs": len(duels), "sheet": str(output / SHEET), "text": text}
    opened = context.subject(checkpoint_from(judge))
    with opened.on_task():
        outcomes = judged(opened, duels, context)
    rows = [{**asdict(duel), "orders": list(pair)} for duel, pair in zip(duels, outcomes, strict=True)]
    atomic_write(output / "pairs.jsonl", b"".join(json_bytes(row) for row in rows))
    return _result(agreed(outcomes), outcomes, output, f"judge {judge}")


def count_votes(folder: Path) -> dict[str, Any]:
    """The result of a sheet that people have filled in.

    Raises:
        DataError: a line is missing, or says neither A, B nor tie (E-DATA-VOTE).
    """
    key = json.loads((folder / KEY).read_text(encoding="utf-8")) if (folder / KEY).is_file() else None
    if key is None:
        raise RecipeError(
            f"'{folder}' holds no {KEY}.", code="E-USAGE", fix="Give the folder that `keeptune pairwise` has written."
        )
    votes: dict[str, list[Outcome]] = {}
    with (folder / SHEET).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            identity, outcome = _vote(line, key, folder / SHEET, number)
            votes.setdefault(identity, []).append(outcome)
    pairs = [(first, second) for first, second in (own for own in votes.values() if len(own) == 2)]
    if len(pairs) != len(votes) or not pairs:
        raise DataError(
            "a pair is not there in both orders.", code="E-DATA-VOTE", where={"file": str(folder / SHEET)},
            fix="Leave every line of the sheet in its place.",
        )  # fmt: skip
    return _result([in_both_orders(*pair) for pair in pairs], pairs, folder, "people")


def _requests(path: Path) -> list[str]:
    lines = []
    with open_source(path) as stream, unzipping(path):
        for line in read_lines(stream, str(path), LINE_BYTES, Counter()):
            if isinstance(line.text, DataError):
                raise line.text
            lines.append(line.text.strip())
    found = list(dict.fromkeys(filter(None, lines)))
    if not found:
        raise DataError(
            "no requests.", code="E-DATA-NOROWS", where={"file": str(path)}, fix="Give a text file, one request a line."
        )
    return found


def _answers(side: Checkpoint, requests: Sequence[str], longest: int, context: Context) -> list[str]:
    subject = context.subject(side)
    asked = [[Message("user", one)] for one in requests]
    refuse_long(subject, asked)
    with subject.off_task():
        return free_answers(subject, asked, longest, context, "answers")


def _keep_votes(output: Path) -> None:
    """Refuses to write over a sheet that somebody has begun to fill in."""
    sheet = output / SHEET
    lines = sheet.read_text(encoding="utf-8", errors="replace").splitlines() if sheet.is_file() else ()
    if any(map(_touched, lines)):
        raise MachineError(
            "people have filled in lines of this sheet, and a new one would take its place.", code="E-OUTPUT-EXISTS",
            where={"file": sheet},
            fix=f"Count them with {typed('keeptune', 'pairwise', '--votes', output)}, or choose another --output.",
        )  # fmt: skip


def _touched(line: str) -> bool:
    """Whether a line of the sheet is no longer as it was written."""
    try:
        return bool(json.loads(line)["better"] != "")
    except (ValueError, KeyError, TypeError):
        return bool(line.strip())


def _write_sheet(duels: Sequence[Duel], output: Path) -> None:
    """Both orders of every pair, shuffled; which side is which stands in the key alone."""
    rows, key = [], {}
    for number, duel in enumerate(duels):
        for order, (first, second) in enumerate(((duel.before, duel.after), (duel.after, duel.before))):
            identity = stable_id("pair", str(number), str(order), duel.request)
            key[identity] = [number, "B" if order == 0 else "A"]
            rows.append({"id": identity, "request": duel.request, "A": first, "B": second, "better": ""})
    Random(0).shuffle(rows)
    atomic_write(output / SHEET, b"".join(json_bytes(row) for row in rows))
    write_json(output / KEY, key)


def _vote(line: str, key: dict[str, Any], path: Path, number: int) -> tuple[str, Outcome]:
    """(pair, outcome for `after`) of one line of the sheet."""
    try:
        row = json.loads(line)
        pair, own = key[row["id"]]
        said = str(row["better"]).strip().upper()
    except (ValueError, KeyError, TypeError):
        row, said = None, ""
    if row is None or said not in ("A", "B", "TIE"):
        raise DataError(
            "`better` is A, B or tie.", code="E-DATA-VOTE", where={"file": str(path), "line": number},
            fix="Fill in the line, and change nothing else in it.",
        )  # fmt: skip
    return str(pair), "tie" if said == "TIE" else "win" if said == own else "lose"


def _result(
    outcomes: Sequence[Outcome], orders: Sequence[tuple[Outcome, Outcome]], output: Path, who: str
) -> dict[str, Any]:
    found: Preference = preference(outcomes)
    swayed = sum({"win", "lose"} == set(pair) for pair in orders)
    plain = {**asdict(found), "n": found.n, "by_place": swayed, "judged_by": who}
    write_json(output / "pairwise.json", plain)
    text = (
        f"{counted(found.wins, 'win')}, {counted(found.ties, 'tie')}, {counted(found.losses, 'loss', 'losses')} of "
        f"{found.n:,} for the second model, by {who}\n"
        f"net preference {points(found.net)} points ({points(found.low)} to {points(found.high)}, 90%); "
        f"{counted(swayed, 'pair is a tie: it was', 'pairs are ties: they were')} judged by place"
    )
    return {**plain, "text": text}
