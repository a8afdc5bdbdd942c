"""Log-likelihood of texts under a model: of options after a prompt, of an assistant's answers, of documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keeptune.core.example import Example, Message
from keeptune.data.encode import encoder_of
from keeptune.data.text_encoder import frame
from keeptune.engine.scored import Scored
from keeptune.evaluations import Context, Subject

ROWS_AT_ONCE = 2048
"""Rows between two progress reports; fixed, so that batches are composed alike in every run."""


def log_likelihoods(subject: Subject, rows: Sequence[Scored], context: Context, what: str) -> list[float]:
    """Sum of log p over the scored tokens of each row, in nats; what is active on the model stays active.

    Rows are batched by length: neighbours of equal length share one attention call. Of an encoder they are
    pseudo-log-likelihoods.
    """
    from keeptune.engine.pseudo_scoring import pseudo_logprobs
    from keeptune.engine.scoring import token_logprobs

    order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
    sums = [0.0] * len(rows)
    for start in range(0, len(order), ROWS_AT_ONCE):
        part = order[start : start + ROWS_AT_ONCE]
        own = [rows[i] for i in part]
        if subject.kind == "encoder":
            found = pseudo_logprobs(subject.model, own, batch_tokens=context.batch_tokens)
        else:
            found = [sum(values) for values in token_logprobs(subject.model, own, batch_tokens=context.batch_tokens)]
        for index, value in zip(part, found, strict=True):
            sums[index] = value
        context.tell(what, start + len(part), len(rows))
    return sums


def option_log_likelihoods(
    subject: Subject,
    groups: Sequence[Sequence[Scored]],
    context: Context,
    what: str,
    golds: Sequence[int | None] | None = None,
) -> list[list[float]]:
    """The same for rows that share a prompt, group by group; the prompt is computed once.

    Given the place of each group's right option, long lists of options are searched: an option that cannot be the best
    one is -inf, and the best one and the right one have their values.
    """
    from keeptune.engine.best_continuation import best_logprobs

    if subject.kind == "encoder":
        flat = iter(log_likelihoods(subject, [row for group in groups for row in group], context, what))
        return [[next(flat) for _ in group] for group in groups]
    pad = subject.tokenizer.pad_token_id or 0
    at_once = max(1, ROWS_AT_ONCE // max(map(len, groups), default=1))
    sums: list[list[float]] = []
    for start in range(0, len(groups), at_once):
        part = groups[start : start + at_once]
        own = None if golds is None else golds[start : start + at_once]
        sums += best_logprobs(subject.model, part, own, pad=pad, batch_tokens=context.batch_tokens)
        context.tell(what, len(sums), len(groups))
    return sums


def best_option(values: Sequence[float]) -> int | None:
    """Index of the only greatest value; None when two share it or a value is not a number."""
    if any(math.isnan(value) for value in values):
        return None
    best = max(range(len(values)), key=values.__getitem__)
    return best if values.count(values[best]) == 1 else None


def after_prompt(tokenizer: Any, prompts: Sequence[str], options: Sequence[str], kind: str = "decoder") -> list[Scored]:
    """One row per (prompt, option) pair; the option's tokens are scored, tokenised together with the prompt.

    A token that straddles the border counts for the option. The row opens with the beginning-of-text token, or with
    the end-of-text token where there is none, so that a text's first token is scored too; an encoder's stands in its
    tokenizer's frame.
    """
    first, last = frame(tokenizer) if kind == "encoder" else (opening_token(tokenizer), ())
    texts = [prompt + option for prompt, option in zip(prompts, options, strict=True)]
    # Not verbose: a text beyond the model's context is read in windows, which is no mistake.
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    rows = []
    for prompt, ids, offsets in zip(prompts, found["input_ids"], found["offset_mapping"], strict=True):
        start = next((i for i, (_, end) in enumerate(offsets) if end > len(prompt)), len(ids))
        rows.append(Scored((*first, *ids, *last), max(start + len(first), 1)))
    return rows


def document_bits(subject: Subject, texts: Sequence[str], context: Context, what: str) -> list[float]:
    """Bits of each text: -sum log2 p(token). A text longer than the model's context is read in windows."""
    rows = after_prompt(subject.tokenizer, [""] * len(texts), texts, subject.kind)
    longest = context_of(subject.model)
    windows = [(index, window) for index, row in enumerate(rows) for window in _windows(row, longest)]
    bits = [0.0] * len(texts)
    values = log_likelihoods(subject, [window for _, window in windows], context, what)
    for (index, _), value in zip(windows, values, strict=True):
        bits[index] -= value / math.log(2)
    return bits


def context_of(model: Any) -> int:
    """Tokens of a text that a model reads at a time, as it is served now; 2,048 where it sets itself no limit."""
    from keeptune.engine.positions import positions_before

    return int(getattr(model.config, "max_position_embeddings", 0) or 2048) - positions_before(model)


def _windows(row: Scored, longest: int) -> list[Scored]:
    """Pieces of a row in which each scored token stands once; every piece begins with the row's opening."""
    if len(row.tokens) <= longest:
        return [row]
    opening, body = tuple(row.tokens[: row.start]), tuple(row.tokens[row.start :])
    step = longest - len(opening)
    return [Scored((*opening, *body[start : start + step]), row.start) for start in range(0, len(body), step)]


def opening_token(tokenizer: Any) -> tuple[int, ...]:
    """What a text of its own begins with: the beginning-of-text token, else the end-of-text token, else nothing."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next(((token,) for token in known if token is not None), ())


class Answers:
    """Builds rows in which a whole assistant's turn is scored, its end of turn included."""

    def __init__(self, tokenizer: Any, kind: str = "decoder") -> None:
        self.tokenizer, self.kind = tokenizer, kind
        self._encoder = encoder_of(tokenizer, None, kind)
        self._ends = self._end_of_turn() if kind == "decoder" else None
        self._pieces: dict[str, tuple[int, ...]] = {}

    def rows(self, prompt: Sequence[Message], answers: Sequence[str]) -> list[Scored]:
        """One row per possible answer to the same prompt."""
        if self.kind == "encoder":
            asked = "\n".join(turn.content for turn in prompt)
            return after_prompt(self.tokenizer, [asked] * len(answers), [f" {one}" for one in answers], self.kind)
        if self._ends is None:
            return [self._whole(prompt, answer) for answer in answers]
        request = self._encoder.request(prompt)
        head, starts = request.tokens, request.starts
        return [Scored((*head, *self._piece(answer), *self._ends), len(head), starts) for answer in answers]

    def _piece(self, answer: str) -> tuple[int, ...]:
        if answer not in self._pieces:
            self._pieces[answer] = tuple(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        return self._pieces[answer]

    def _whole(self, prompt: Sequence[Message], answer: str) -> Scored:
        encoded = self._encoder.encode(Example("", (*prompt, Message("assistant", answer))))
        taught = [i for i, learned in enumerate(encoded.learned) if learned]
        return Scored(tuple(encoded.tokens[: taught[-1] + 1]), taught[0], encoded.starts)

    def _end_of_turn(self) -> tuple[int, ...] | None:
        """What follows an answer, if prompt + answer + this is what training sees; else None: encode each whole."""
        turns, answer = [Message("user", "What is it?")], "a table"
        whole = self._whole(turns, answer)
        piece = tuple(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        head = tuple(self._encoder.prompt(turns))
        joined = (*head, *piece)
        if whole.start != len(head) or whole.tokens[: len(joined)] != joined:
            return None
        return tuple(whole.tokens[len(joined) :])
