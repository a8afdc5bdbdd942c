"""Examples to rows of tokens that fit the context; every row is kept, cut or dropped by a stated rule, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keeptune.core.errors import DataError, ModelError
from keeptune.core.example import Example, Message
from keeptune.data.encoder import Encoded, Encoder, as_messages

TooLong = Literal["drop", "cut", "split", "refuse"]
NAMED_ROWS = 100

__all__ = [
    "Encoded",
    "EncodedSet",
    "Encoder",
    "Problem",
    "TooLong",
    "check_stop",
    "encode",
    "encode_all",
    "encode_prompt",
    "stop_ids",
]


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


def encode(
    example: Example | Sequence[Message | Mapping[str, Any]], tokenizer: Any, template: str | None = None
) -> Encoded:
    """Encodes one example or conversation; `Encoder` is the form for many."""
    whole = example if isinstance(example, Example) else Example("", as_messages(example))
    return Encoder(tokenizer, template).encode(whole)


def encode_prompt(
    messages: Sequence[Message | Mapping[str, Any]], tokenizer: Any, template: str | None = None
) -> list[int]:
    """Ids of a conversation that the model is to continue."""
    return Encoder(tokenizer, template).prompt(as_messages(messages))


def stop_ids(tokenizer: Any, template: str | None = None) -> set[int]:
    """Tokens at which generation ends; see `Encoder.stop_ids`."""
    return Encoder(tokenizer, template).stop_ids()


def check_stop(tokenizer: Any, generation_stops: Iterable[int], template: str | None = None) -> None:
    """Refuses a model that would be trained to end its turn with a token at which generation does not stop.

    Args:
        tokenizer: a fast tokenizer of transformers.
        generation_stops: the ids at which the model's generation settings stop.
        template: as `Encoder`.

    Raises:
        ModelError: E-TEMPLATE-STOP.
    """
    encoder = Encoder(tokenizer, template)
    stops = set(generation_stops)
    if encoder.chat.end_id not in stops:
        token = encoder.chat.ending.strip()
        raise ModelError(
            f"the chat template ends a turn with '{token}' (id {encoder.chat.end_id}), which is not among the stop "
            f"tokens {sorted(stops)}.",
            code="E-TEMPLATE-STOP",
            where={"file": getattr(tokenizer, "name_or_path", None) or None},
            why="The adapted model would never stop.",
            fix="Add the id to `eos_token_id` in generation_config.json.",
        )


def encode_all(
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    too_long: TooLong,
    context: int,
    template: str | None = None,
    most_dropped: float = 0.5,
    gather: bool = False,
) -> EncodedSet:
    """Encodes every example; a row longer than `context` meets the policy.

    - drop: it is left out.
    - cut: its tail is left out. If no learned token is left, the row teaches nothing and is dropped.
    - split: a document becomes consecutive rows that overlap by one token, so that every token but the document's first
      is learned exactly once. A conversation has no sound place to split and is dropped.
    - refuse: the data is refused.

    Args:
        examples: of one source.
        tokenizer: a fast tokenizer of transformers.
        too_long: the policy.
        context: longest row in tokens.
        template: as `Encoder`.
        most_dropped: share of rows that may be dropped before that is an error.
        gather: rows that the template cannot write are counted as dropped and named instead of raised (for `check`).

    Raises:
        DataError: E-DATA-LONG (refuse), E-DATA-NOTHING (no row teaches anything), E-DATA-DROPPED (too many dropped),
            or what `Encoder.encode` raises.
    """
    assert context >= 2, "a row needs a token to predict from and one to predict"
    sorting = _Sorting(too_long, context)
    encoder = Encoder(tokenizer, template)
    for example in examples:
        try:
            sorting.add(encoder.encode(example), example)
        except DataError as error:
            if not gather:
                raise
            sorting.drop("bad", error.code, example, error.what)
    return sorting.result(encoder, most_dropped)


class _Sorting:
    """Sorts encoded rows into kept, cut and dropped while it counts them."""

    def __init__(self, too_long: TooLong, context: int) -> None:
        self.too_long, self.context = too_long, context
        self.rows: list[Encoded] = []
        names = "read kept dropped cut split long silent bad open_ended tokens learned"
        self.counts: Counter[str] = Counter(dict.fromkeys(names.split(), 0))
        self.problems: list[Problem] = []
        self.whole: list[Encoded] = []

    def add(self, row: Encoded, example: Example) -> None:
        length = len(row.tokens)
        if not any(row.learned):
            self.drop("silent", "E-ROW-NOTHING", example, "it has no token to learn.")
        elif length <= self.context:
            self.counts.update(read=1, kept=1)
            self.rows.append(row)
            self.whole.append(row)
        else:
            self.counts["long"] += 1
            self._add_long(row, example, f"it has {length} tokens; the context holds {self.context}")

    def _add_long(self, row: Encoded, example: Example, what: str) -> None:
        if self.too_long == "split" and example.text is not None:
            pieces = split_document(row, self.context)
            self.counts.update(read=1, kept=1, split=1)
            self.rows += pieces
            self._name("E-ROW-LONG", example, f"{what}: split into {len(pieces)} rows.")
        elif self.too_long == "cut" and any(row.learned[: self.context]):
            self.counts.update(read=1, cut=1)
            self.rows.append(Encoded(row.id, row.source, row.tokens[: self.context], row.learned[: self.context]))
            self._name("E-ROW-LONG", example, f"{what}: its tail was cut.")
        elif self.too_long == "cut":
            self.drop("silent", "E-ROW-NOTHING", example, f"{what}, and nothing to learn is left when it is cut.")
        else:
            reason = " A conversation is never split." if self.too_long == "split" else ""
            self.drop("", "E-ROW-LONG", example, f"{what}.{reason}")

    def drop(self, reason: str, code: str, example: Example, what: str) -> None:
        self.counts.update(read=1, dropped=1)
        if reason:
            self.counts[reason] += 1
        self._name(code, example, what)

    def result(self, encoder: Encoder, most_dropped: float) -> EncodedSet:
        counts = self.counts
        if self.too_long == "refuse" and counts["long"]:
            raise self._error("E-DATA-LONG", f"{counts['long']} of {counts['read']} rows are longer than the context.")
        if not self.rows:
            raise self._error("E-DATA-NOTHING", f"none of the {counts['read']} rows teaches anything.")
        if counts["dropped"] > most_dropped * counts["read"]:
            text = f"{counts['dropped']} of {counts['read']} rows would be dropped; at most {most_dropped:.0%} may be."
            raise self._error("E-DATA-DROPPED", text)
        counts["tokens"] = sum(len(row.tokens) for row in self.rows)
        counts["learned"] = sum(sum(row.learned) for row in self.rows)
        used = encoder.used_chat
        if used is not None:
            stops = encoder.stop_ids()
            counts["open_ended"] = sum(not stops.issuperset(last_learned(row)) for row in self.whole)
        notes = (used.note,) if used is not None and used.note else ()
        return EncodedSet(tuple(self.rows), dict(counts), tuple(self.problems), notes)

    def _name(self, code: str, example: Example, what: str) -> None:
        if len(self.problems) < NAMED_ROWS:
            self.problems.append(Problem(code, example.id, example.line, what))

    def _error(self, code: str, what: str) -> DataError:
        named = "; ".join(f"row {row.id}: {row.what}" for row in self.problems[:5])
        return DataError(
            what,
            code=code,
            where={"line": self.problems[0].line if self.problems else None},
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
    following = (*row.learned[1:], False)
    triples = zip(row.tokens, row.learned, following, strict=True)
    return [token for token, learned, goes_on in triples if learned and not goes_on]
