"""What fits the context of the models that are asked, and what is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keeptune.core.checkpoint import AdapterRef
from keeptune.core.example import Example, Message
from keeptune.data.encode import encode_prompt
from keeptune.evaluations import Subject
from keeptune.evaluations.target import Target
from keeptune.methods import Prompt
from keeptune.recipes.within_context import left_out_lines, within_context
from tests.evaluations.tiny_subject import context, learned, tiny, tokenizer

SHORT, LONG = "one", "one " * 300


def row(name, asked, answer="red"):
    return Example(name, (Message("user", asked), Message("assistant", answer)))


@pytest.mark.parametrize(
    ("metric", "kept"), [("exact_match", ["a", "b"]), ("bits_per_byte", ["a"]), ("label_accuracy", [])]
)
def test_a_row_counts_by_what_its_metric_reads(metric, kept):
    subject = Subject(tiny(max_position_embeddings=100), tokenizer())
    rows = {"task/test": [row("a", SHORT), row("b", SHORT, LONG), row("c", LONG)], "task/train": [row("d", LONG)]}
    asked = context(subject, data=rows)
    if not kept:  # every row is asked with the long label
        with pytest.raises(Exception, match="nothing of the 3 rows of 'task, test'"):
            within_context(asked, [subject], Target(metric=metric))
        return
    found = within_context(asked, [subject], Target(metric=metric))
    assert [one.id for one in found.data["task/test"]] == kept
    assert found.data["task/train"] == rows["task/train"]
    assert found.left_out == [{"name": "task, test", "items": 3 - len(kept), "of": 3, "context": 100}]
    assert left_out_lines({"left_out": found.left_out})[0].startswith(f"left out     {3 - len(kept)} of 3 items")


def test_both_answers_of_a_pair_have_to_fit():
    subject = Subject(tiny(max_position_embeddings=100), tokenizer())
    rows = [replace(row("a", SHORT), rejected="blue"), replace(row("b", SHORT), rejected=LONG)]
    found = within_context(context(subject, data={"task/test": rows}), [subject], Target(metric="preference_accuracy"))
    assert [one.id for one in found.data["task/test"]] == ["a"]


def test_virtual_tokens_take_learned_positions_from_the_text(tmp_path):
    subject = Subject(learned(96), tokenizer(), (AdapterRef("own", tmp_path, "always"),))
    Prompt(length=20).attach(subject.model, "own")
    lengths = {times: len(encode_prompt([Message("user", "one " * times)], tokenizer())) for times in range(1, 90)}
    fits, not_any_more = (max(n for n, own in lengths.items() if own < most) for most in (76, 96))
    rows = [row("a", "one " * fits), row("b", "one " * not_any_more)]
    found = within_context(context(subject, data={"task/test": rows}), [subject], Target())
    assert [one.id for one in found.data["task/test"]] == ["a"]
