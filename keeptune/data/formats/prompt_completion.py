"""A prompt and its completion, in columns of any name; a prompt of several columns is several texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, field_validator

from keeptune.core.errors import did_you_mean
from keeptune.core.example import TEXTS, Example, Message
from keeptune.data.fields import empty, optional_text, required_text
from keeptune.data.formats import FileFormat, guessable, identity, licence
from keeptune.data.place import Place

PROMPTS = (
    "prompt",
    "inputs_pretokenized",
    "inputs",
    "question",
    "query",
    "instruction",
    "input",
    "text",
    "sentence",
    "utterance",
    "problem",
    "document",
    "dialogue",
)
COMPLETIONS = (
    "completion targets_pretokenized targets answer response output target label category intent solution summary "
    "class label_text label_coarse gold_label entailment_judgment code"
).split()
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("sentence_a", "sentence_b"),
    ("text_a", "text_b"),
)
_COLUMN = re.compile(r"\{([^{}]+)\}")
ENDS = ("<|endoftext|>", "</s>", "<|im_end|>", "<eos>")


class PromptCompletion(FileFormat):
    """`{"prompt", "completion"}`; `prompt: text, completion: label` names other columns.

    `prompt: [premise, hypothesis]`: an encoder reads the texts as its tokenizer joins a pair, `[CLS] a [SEP] b [SEP]`;
    every other model reads one per line. `prompt: "Which topic is this about? {text}"` says of each row what is wanted;
    bare rows teach a model to answer whatever looks like them with a label.

    Answers that are numbers or truth values are refused unless the recipe says how they are written: `numbers: true`
    as in the file, `labels: {0: negative, 1: positive}` in words.
    """

    prompt: str | Annotated[tuple[str, ...], Field(min_length=2, max_length=8)] = Field(
        "prompt", description="column of the prompt, a list of columns, or a text with columns in {braces}"
    )
    completion: str = Field("completion", description="column of the answer")
    end: str | None = Field(None, description="text behind every answer of the file that is taken off, such as </s>")
    system: str | None = Field(None, description="column of an optional system text")
    numbers: bool = Field(False, description="an answer that is a number or a truth value is learned as it is written")
    labels: dict[str, str] = Field(
        default_factory=dict, description="what is learned for each answer of the file: {0: negative, 1: positive}"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _keys_as_written(cls, given: Any) -> Any:
        return {_written(key): text for key, text in given.items()} if isinstance(given, dict) else given

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the prompt, in the order in which they are read."""
        if not isinstance(self.prompt, str):
            return self.prompt
        return tuple(dict.fromkeys(_COLUMN.findall(self.prompt))) or (self.prompt,)

    def read_row(self, row: Mapping[str, Any], place: Place) -> Example:
        """One user turn and one assistant turn."""
        texts = {column: required_text(row, column, place, setting="prompt", part="prompt") for column in self.columns}
        answer = self._answer(row, place)
        if self.end and answer.rstrip().endswith(self.end):
            answer = answer.rstrip().removesuffix(self.end)
            if not answer.strip():
                raise empty(answer, self.completion, place, "answer")
        asked = self._asked(texts)
        turns = [asked, Message("assistant", answer)]
        if self.system is not None:
            if self.system not in row:
                raise place.missing(row, self.system, "system")
            text = optional_text(row, self.system, place)
            turns = ([Message("system", text)] if text else []) + turns
        return Example(identity(row, place), tuple(turns), licence=licence(row), line=place.line)

    def _asked(self, texts: Mapping[str, str]) -> Message:
        """The user turn of a row, from the texts of its columns."""
        if isinstance(self.prompt, str):
            alone = texts.get(self.prompt)
            return Message("user", alone or _COLUMN.sub(lambda found: texts[found[1]], self.prompt))
        several = [texts[column] for column in self.prompt]
        return Message("user", "\n".join(several), {TEXTS: several})

    def _answer(self, row: Mapping[str, Any], place: Place) -> str:
        """The answer of a row as it is learned."""
        if _number(value := row.get(self.completion)):
            if not self.numbers and not self.labels:
                raise place.error(
                    f"'{self.completion}' holds {_written(value)}, not text.", code="E-DATA-TYPE", key=self.completion,
                    fix="Learn it as it is written with `numbers: true`, or in words with `labels: {0: no, 1: yes}`.",
                )  # fmt: skip
            row = {**row, self.completion: _written(value)}
        answer = required_text(row, self.completion, place, setting="completion", part="answer")
        if self.labels and answer not in self.labels:
            raise place.error(
                f"the answer '{answer[:80]}' is none of `labels`.", code="E-DATA-LABELS", key=self.completion,
                fix=did_you_mean(answer, self.labels),
            )  # fmt: skip
        return self.labels.get(answer, answer)

    @classmethod
    def looks_like(cls, row: Mapping[str, Any]) -> float:
        """Sure by the two usual names, fairly sure by their synonyms, less so where the answer is a number."""
        if guessable(row.get("prompt")) and guessable(row.get("completion")):
            return 1.0
        found = columns_of(row)
        return 0.0 if found is None else 0.8 if guessable(row[found[1]]) else 0.75

    @classmethod
    def settings_for(cls, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The columns found in most rows; those found first where as many rows have others."""
        each = [found for found in map(columns_of, rows) if found is not None]
        if not each:
            return {}
        found = max(each, key=each.count)
        last = [str(row.get(found[1])).rstrip() for row in rows]
        end = next((mark for mark in ENDS if all(text.endswith(mark) for text in last)), None)
        more = (
            {"end": end} if end else {"numbers": True} if any(map(_number, (row.get(found[1]) for row in rows))) else {}
        )
        return {"prompt": found[0], "completion": found[1], **more}


def columns_of(row: Mapping[str, Any]) -> tuple[str | list[str], str] | None:
    """The columns that hold a prompt and an answer by their names, in any letter case; two for a pair of sentences.

    An answer may be a number, where no column of text bears such a name.
    """
    texts = {str(key).lower(): str(key) for key, value in row.items() if guessable(value)}
    pair = next(([texts[name] for name in pair] for pair in PAIRS if all(name in texts for name in pair)), None)
    prompt = pair or next((texts[name] for name in PROMPTS if name in texts), None)
    numbers = {str(key).lower(): str(key) for key, value in row.items() if _number(value)}
    completion = next((names[name] for names in (texts, numbers) for name in COMPLETIONS if name in names), None)
    return (prompt, completion) if prompt and completion else None


def _number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def _written(value: Any) -> Any:
    """A number or a truth value as JSON writes it; anything else unchanged."""
    return json.dumps(value) if _number(value) else value
