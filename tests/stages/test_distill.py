"""On-policy distillation: who writes the rows, what the teacher reads, and that a damaged model comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import DataError, Interrupted, RecipeError
from keeptune.core.example import Example, Message
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.data.encode import encode_all, encode_prompt
from keeptune.engine.batch import pack
from keeptune.engine.shared_rows import pack_shared
from keeptune.models.load import load
from keeptune.stages import Stage, StageWork
from keeptune.stages import _training as training
from keeptune.stages._on_policy import demonstrated
from keeptune.stages._progress import Progress
from tests.recipes.test_shelf_steps import model  # noqa: F401 (a fixture)
from tests.stages.test_train import StopAt

ROWS = tuple(
    Example(f"r{n}", (Message("user", f"Name {word}."), Message("assistant", f"{word} it is")), source="task")
    for n, word in enumerate("red green blue black white".split())
)
SHOW = "{instruction} Here is one: {reference}"


def distill(**settings) -> Stage:
    plain = {
        "name": "distill", "method": {"name": "lora", "rank": 4}, "teacher": "base", "max_new_tokens": 6,
        "optimizer": {"name": "adamw", "lr": 1e-2}, "steps": 6, "batch_tokens": 64, "saving": {"every": 2},
        **settings,
    }  # fmt: skip
    return validate(Stage, plain)


@pytest.fixture
def bench(model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    base = Checkpoint(str(model), dtype="float32")

    def opened(checkpoint):
        from keeptune.methods import load_adapter

        loaded = load(checkpoint.base, dtype="float32", device="cpu")
        for ref in checkpoint.adapters:
            load_adapter(loaded.model, ref.path, ref.name, force=True)
        return loaded

    data = {"task": encode_all(ROWS, opened(base).tokenizer, too_long="drop", context=128)}

    def work(run: Run, index: int = 0) -> StageWork:
        folder = run.stage_folder(index, f"stage-{index}")
        return StageWork(run=run, folder=folder, index=index, seed=7, data=data, open=opened, base=base,
                         examples={"task": ROWS}, progress=Progress(quiet=True))  # fmt: skip

    return base, work


def test_answers_are_the_models_own_and_change_with_it(bench, tmp_path):
    base, work = bench
    with Run.open(tmp_path / "run") as run:
        attempt = training.Attempt(distill(), base, work(run), 1.0)
        plan, rows = attempt.session.plan, attempt.session.plan.rows(0)
        assert plan.rows(0) is rows
        for row in rows:
            question = encode_prompt(ROWS[int(row.id[1 : row.id.index("~")])].prompt, attempt.loaded.tokenizer)
            assert list(row.tokens[: len(question)]) == question
            assert row.learned == tuple(place >= len(question) for place in range(len(row.tokens)))
            assert 0 < sum(row.learned) <= 7
        plan.rows(1)
        assert plan.rows(0) == rows
        with torch.no_grad():
            attempt.loaded.model.get_input_embeddings().weight.normal_()
        plan.rows(1)
        assert plan.rows(0) != rows


@pytest.mark.parametrize("packing", [pack, pack_shared])
def test_the_teacher_reads_the_demonstration_and_judges_the_same_tokens(bench, tmp_path, packing):
    base, work = bench
    with Run.open(tmp_path / "run") as run:
        attempt = training.Attempt(distill(teacher="start", show=SHOW), base, work(run), 1.0)
    rows, teacher = attempt.session.plan.rows(0), attempt.session.objective.reference
    batch = packing(rows)
    learned = torch.nonzero(batch.targets != -100).squeeze(-1)
    found = teacher.head.logits(teacher.hidden(batch, learned)).log_softmax(-1)
    plain, expected = load(base.base, dtype="float32", device="cpu"), []
    for row in rows:
        example = ROWS[int(row.id[1 : row.id.index("~")])]
        answer = [token for token, own in zip(row.tokens, row.learned, strict=True) if own]
        shown = encode_prompt(demonstrated(example, SHOW), plain.tokenizer)
        with torch.no_grad():
            logits = plain.model(torch.tensor([[*shown, *answer]])).logits[0, len(shown) - 1 : -1]
        expected.append(logits.log_softmax(-1))
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-4, rtol=1e-4)


def test_a_damaged_model_comes_back_to_its_old_self(bench, tmp_path):
    base, work = bench
    harm = validate(Stage, {"name": "train", "id": "harm", "method": "full", "steps": 15,
                            "batch_tokens": 64, "optimizer": {"name": "adamw", "lr": 1e-2}})  # fmt: skip
    with Run.open(tmp_path / "run") as run:
        damaged = harm.run(base, work(run))
        mended = distill(id="mend", steps=25).run(damaged, work(run, 1))
        kl = [row["kl_to_base"] for row in run.metrics() if row["stage"] == "mend"]
    assert mended.base != base.base
    assert [ref.name for ref in mended.adapters] == ["mend"]
    assert kl[0] > 0.1
    assert sum(kl[-5:]) / 5 < 0.25 * kl[0]


def test_full_tuning_has_the_old_self_as_a_second_model(bench, tmp_path):
    base, work = bench
    with Run.open(tmp_path / "run") as run:
        distill(method="full", steps=2, optimizer={"name": "adamw", "lr": 1e-4}).run(base, work(run))
        metrics = run.metrics()
    assert metrics[0]["kl_to_base"] == pytest.approx(0, abs=1e-6)


def test_interrupted_and_resumed_gives_the_weights_of_an_uninterrupted_run(bench, tmp_path):
    base, work = bench
    stage = distill(teacher="start", show=SHOW)
    with Run.open(tmp_path / "whole") as run:
        whole = stage.run(base, work(run))
    with Run.open(tmp_path / "cut") as run:
        stopped = replace(work(run), progress=StopAt(run, 3))
        with pytest.raises(Interrupted):
            stage.run(base, stopped)
    with Run.open(tmp_path / "cut") as run:
        again = stage.run(base, work(run))
        assert len(run.metrics()) == 6
    (first,), (second,) = whole.adapters, again.adapters
    files = sorted(first.path.glob("*.safetensors"))
    assert files
    assert [file.read_bytes() for file in files] == [(second.path / file.name).read_bytes() for file in files]


def test_what_teaches_nothing_is_refused(bench, tmp_path):
    base, work = bench
    for wrong, said in (
        ({"teacher": "start"}, "something to read"),
        ({"losses": ["next_token"]}, "own answers"),
        ({"on": "replay"}, "does not train on"),
        ({"show": "{reference}"}, "once"),
        ({"losses": ["kl_to_base", {"name": "l2_sp", "on": "replay"}], "method": "full"}, "over tokens"),
    ):
        with pytest.raises(RecipeError, match=said):
            distill(**wrong)
    with Run.open(tmp_path / "run") as run:
        own = replace(work(run), examples={"task": (Example("r0", text="a document", source="task"),)})
        with pytest.raises(DataError) as caught:
            distill().run(base, own)
    assert caught.value.code == "E-DISTILL-ROWS"
