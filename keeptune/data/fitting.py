"""Fitting encoded rows into the context: each is kept, cut, split or dropped by a stated rule, and counted."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from keeptune.core.counting import counted
from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.data.encoder import Encoded, Encoder
from keeptune.data.image_encoder import ImageEncoder
from keeptune.data.text_encoder import TextEncoder

TooLong = Literal["drop", "cut", "split", "refuse"]
NAMED_ROWS = 100
RUN = re.compile(b"\x01+")


@dataclass(frozen=True)
class Problem:
    """A row that is not trained as it stands.

    Attributes:
        code: E-ROW-LONG (longer than the context), E-ROW-NOTHING (no learned token is left), or the DataError's.
        id: of the Example.
        line: of its file.
        what: one sentence.
    """

    code: str
    id: str
    line: int | None
    what: str

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else f"row {self.id}"
        return f"{place}: {self.what} ({self.code})"


@dataclass(frozen=True)
class EncodedSet:
    """Rows ready to train on.

    Attributes:
        rows: in the examples' order.
        counts: `read` = `kept` + `dropped` + `cut`, always. Of the kept, `split` became several rows. `long` were
            longer than the context; `silent` of the dropped had nothing to learn; `bad` of the dropped could not be
            written by the template. `open_ended` are whole rows with an answer that does not end in a stop token.
            `tokens` and `learned` are totals over the rows.
        problems: the first 100 rows that were cut, dropped or split, by name.
        notes: what the user should know, such as the choice of the plain template.
    """

    rows: tuple[Encoded, ...]
    counts: Mapping[str, int]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


class Fitting:
    """Takes rows one by one; see `encode.encode_all` for the policies and errors.

    Args:
        too_long: the policy.
        context: longest row in tokens.
        encoder: that made the rows.
        hold: keep the rows; else only their counts and `lengths`, so that any number of rows fits into memory.
    """

    def __init__(
        self, too_long: TooLong, context: int, encoder: Encoder | TextEncoder | ImageEncoder, *, hold: bool = True
    ) -> None:
        self.too_long, self.context, self.encoder, self.hold = too_long, context, encoder, hold
        self.rows: list[Encoded] = []
        self.lengths = array("L")
        names = "read kept dropped cut split long silent bad open_ended tokens learned"
        self.counts: Counter[str] = Counter(dict.fromkeys(names.split(), 0))
        self.problems: list[Problem] = []
        self._unwritten: DataError | None = None
        self._stops: set[int] | None = None
        self.source = ""

    def add(self, row: Encoded, example: Example) -> None:
        """Takes one encoded row."""
        self.source = example.source
        length = row.longest
        if not any(row.learned) and row.answer is None:
            self.drop("silent", "E-ROW-NOTHING", example, "it has no token to learn.")
        elif length <= self.context:
            self.counts["read"] += 1
            self.counts["kept"] += 1
            self._take(row)
            if self.encoder.used_chat is not None:
                self._stops = self._stops or self.encoder.stop_ids()
                self.counts["open_ended"] += not self._stops.issuperset(last_learned(row))
        else:
            self.counts["long"] += 1
            self._add_long(row, example, f"it has {counted(length, 'token')}; the context holds {self.context}")

    def _add_long(self, row: Encoded, example: Example, what: str) -> None:
        if self.too_long == "split" and example.text is not None:
            encoder, context = self.encoder, self.context
            pieces = encoder.pieces(row, context) if isinstance(encoder, TextEncoder) else split_document(row, context)
            self.counts.update(read=1, kept=1, split=1)
            for piece in pieces:
                self._take(piece)
            self._name("E-ROW-LONG", example, f"{what}: split into {len(pieces)} rows.")
        elif row.fork is not None and self.too_long in ("cut", "split"):
            self.drop("", "E-ROW-LONG", example, f"{what}. A pair of answers is never cut.")
        elif self.too_long == "cut" and (any(row.learned[: self.context]) or not any(row.learned)):
            self.counts.update(read=1, cut=1)
            tokens, learned = row.tokens[: self.context], row.learned[: self.context]
            self._take(replace(row, tokens=tokens, learned=learned, starts=row.starts.within(self.context)))
            self._name("E-ROW-LONG", example, f"{what}: its tail was cut.")
        elif self.too_long == "cut":
            self.drop("silent", "E-ROW-NOTHING", example, f"{what}, and nothing to learn is left when it is cut.")
        else:
            reason = {"drop": " It is left out.", "split": " A conversation is never split."}.get(self.too_long, "")
            self.drop("", "E-ROW-LONG", example, f"{what}.{reason}")

    def drop(self, reason: str, code: str, example: Example, what: str) -> None:
        """Leaves a row out; `reason` is the count that it adds to beside `dropped`, if any."""
        self.counts.update(read=1, dropped=1)
        if reason:
            self.counts[reason] += 1
        self._name(code, example, what)

    def refuse(self, error: DataError, example: Example) -> None:
        """Leaves a row out that could not be encoded."""
        self._unwritten = self._unwritten or error
        self.drop("bad", error.code, example, error.what)

    def _take(self, row: Encoded) -> None:
        self.lengths.append(len(row.tokens))
        self.counts["tokens"] += len(row.tokens)
        self.counts["learned"] += row.learned.count(True)
        if self.hold:
            self.rows.append(row)

    def result(self, most_dropped: float) -> EncodedSet:
        """The rows and counts, or the reason why they cannot be trained on."""
        counts = self.counts
        if self.too_long == "refuse" and counts["long"]:
            raise self._error(
                "E-DATA-LONG", f"{counts['long']:,} of {counted(counts['read'], 'row')} are longer than the context."
            )
        too_few = not self.lengths or counts["dropped"] > most_dropped * counts["read"]
        if too_few and self._unwritten is not None and 2 * counts["bad"] > counts["dropped"]:
            first = self._unwritten
            read = counted(counts["read"], "row")
            what = f"{counts['bad']:,} of {read} cannot be written; in the first of them {first.what}"
            raise DataError(what, code=first.code, where=first.where, why=first.why, fix=first.fix)
        if not self.lengths:
            raise self._error("E-DATA-NOTHING", f"no row of {counts['read']:,} teaches anything.")
        if too_few:
            read = counted(counts["read"], "row")
            text = f"{counts['dropped']:,} of {read} would be dropped; at most {most_dropped:.0%} may be."
            raise self._error("E-DATA-DROPPED", text)
        used = self.encoder.used_chat
        notes = () if used is None else tuple(used.notes)
        return EncodedSet(tuple(self.rows), dict(counts), tuple(self.problems), notes)

    def _name(self, code: str, example: Example, what: str) -> None:
        if len(self.problems) < NAMED_ROWS:
            self.problems.append(Problem(code, example.id, example.line, what))

    def _error(self, code: str, what: str) -> DataError:
        named = "; ".join(map(str, self.problems[:5]))
        return DataError(
            what,
            code=code,
            where={"line": self.problems[0].line if self.problems else None, "key": self.source or None},
            why=f"First: {named}" if named else "",
            fix="Raise the context, choose another `too_long` (drop, cut, split, refuse), or shorten the rows.",
        )


def split_document(row: Encoded, context: int) -> list[Encoded]:
    """Consecutive pieces of at most `context` tokens; each starts with the last token of the one before, unlearned."""
    pieces = []
    for number, start in enumerate(range(0, len(row.tokens) - 1, context - 1)):
        tokens, learned = row.tokens[start : start + context], row.learned[start : start + context]
        name = row.id if number == 0 else f"{row.id}#{number + 1}"
        pieces.append(Encoded(name, row.source, tokens, (False, *learned[1:])))
    return pieces


def last_learned(row: Encoded) -> list[int]:
    """The last token of each run of learned tokens."""
    return [row.tokens[run.end() - 1] for run in RUN.finditer(bytes(row.learned))]
