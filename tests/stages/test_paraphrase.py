"""The best wording: its loss is that of the words before the text, it never learns, and it goes with its task."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import RecipeError
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.engine.rows import active
from keeptune.evaluations import Subject
from keeptune.models.load import load
from keeptune.stages import Stage, StageWork
from keeptune.stages._training import Attempt
from tests.recipes.test_shelf_steps import model  # noqa: F401 (a fixture)
from tests.stages.test_distill import bench  # noqa: F401 (a fixture)

TEXTS = ["Say what it is.", "Answer with one word:", "Which colour is this?"]


def paraphrase(**settings) -> Stage:
    return validate(Stage, {"name": "paraphrase", "texts": TEXTS, **settings})


def words_before(plain, text: str, row) -> tuple[float, int]:
    """Summed loss of a row's learned tokens behind a text, by the embeddings of both, and their number."""
    embed = plain.model.get_input_embeddings()
    before = plain.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    tokens = torch.tensor([[*before, *row.tokens]])
    with torch.no_grad():
        logits = plain.model(inputs_embeds=embed(tokens)).logits[0, len(before) : -1].log_softmax(-1)
    gold = torch.tensor(row.tokens[1:])
    losses = -logits[torch.arange(len(gold)), gold]
    learned = torch.tensor(row.learned[1:])
    return float(losses[learned].sum()), int(learned.sum())


def test_the_likeliest_wording_becomes_a_prompt_that_goes_with_its_task(bench, tmp_path):  # noqa: F811
    base, work = bench
    with Run.open(tmp_path / "run") as run:
        given = work(run)
        found = paraphrase(id="words").run(base, given)
        (event,) = [event for event in run.events() if event["kind"] == "paraphrase"]
    plain = load(base.base, dtype="float32", device="cpu")
    expected = []
    for text in ["", *TEXTS]:
        parts = [words_before(plain, text, row) for row in given.data["task"].rows]
        expected.append(sum(loss for loss, _ in parts) / sum(count for _, count in parts))
    assert event["without"] == pytest.approx(expected[0], rel=1e-4)
    assert [one["loss"] for one in event["losses"]] == pytest.approx(expected[1:], rel=1e-4)
    assert event["best"] == min(range(3), key=expected[1:].__getitem__)
    (ref,) = found.adapters
    assert (ref.name, ref.scope, found.deployment) == ("words", "task", "routed")
    tokens = plain.tokenizer(TEXTS[event["best"]], add_special_tokens=False)["input_ids"]
    loaded = given.open(found)
    saved = next(value for name, value in loaded.model.named_parameters() if "prompt_embeddings" in name)
    assert torch.equal(saved, plain.model.get_input_embeddings()(torch.tensor(tokens)))


def test_texts_that_say_nothing_or_the_same_are_refused():
    for texts in (["a", "a"], ["a", " "], ["a"]):
        with pytest.raises(RecipeError):
            paraphrase(texts=texts)


def test_each_task_has_its_own_prompt_in_training_and_when_it_is_measured(bench, tmp_path):  # noqa: F811
    base, work = bench

    def stage(name: str, **settings) -> Stage:
        return validate(Stage, {"name": "train", "id": name, "steps": 1, "batch_tokens": 64, **settings})

    soft = {"name": "prompt", "length": 3}
    first = stage("one", method=soft, data="task", scope="task")
    second = stage("two", method=soft, data="second", scope="second")
    both = stage("both", method={"name": "lora", "rank": 2}, data={"of": ["task", "second"]})
    with Run.open(tmp_path / "run") as run:

        def given(index: int) -> StageWork:
            made = work(run, index)
            second = tuple(replace(row, source="second") for row in made.data["task"].rows)
            made.data = {**made.data, "second": replace(made.data["task"], rows=second)}
            return made

        checkpoint: Checkpoint = first.run(base, given(0))
        assert Attempt(second, checkpoint, given(1), 1.0).stacks(new=True) == {"second": ("two",)}
        checkpoint = second.run(checkpoint, given(1))
        stacks = Attempt(both, checkpoint, given(2), 1.0).stacks(new=True)
        assert stacks == {"task": ("one", "both"), "second": ("two", "both")}
        checkpoint = both.run(checkpoint, given(2))
        loaded = given(3).open(checkpoint)
    subject, asked = Subject(loaded.model, loaded.tokenizer, checkpoint.adapters), torch.tensor([[5, 6, 7]])

    def answered(scope) -> torch.Tensor:
        with scope, torch.no_grad():
            return loaded.model(asked).logits[:, -1]

    for source, names in (("task", ["one", "both"]), ("second", ["two", "both"])):
        assert torch.equal(answered(subject.on_task(source)), answered(active(loaded.model, names)))
    assert torch.equal(answered(subject.off_task()), answered(active(loaded.model, ["both"])))
    assert not torch.equal(answered(subject.on_task("task")), answered(subject.on_task("second")))
    with pytest.raises(RecipeError, match="scope"):
        stage("three", method=soft, data="task", scope="second")
