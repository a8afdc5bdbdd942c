"""The train stage: against a loop written by hand, killed and resumed, damaged, diverging."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from keeptune.core.digest import file_digest
from keeptune.core.errors import DataError, DivergedError, Interrupted, ModelError, PlanError, RecipeError
from keeptune.core.run import Run
from keeptune.losses.next_token import NextToken
from keeptune.methods import attach
from keeptune.stages import _step
from keeptune.stages._output import snapshots
from keeptune.stages._plan import Plan, plan_steps
from keeptune.stages._progress import Progress, Track
from tests.stages.tiny_training import rows, stage

FULL = {"method": "full", "optimizer": {"name": "adamw", "lr": 1e-3}}
ADALORA = {"method": {"name": "adalora", "rank": 2, "initial_rank": 4, "every": 1, "settled": 0.3, "dropout": 0.1}}
HYBRID = {"method": [{"name": "prompt", "length": 3, "frozen": True}, {"name": "lora", "rank": 2}, "norm"]}
SPOTTUNE = {"method": {"name": "spottune", "rank": 2, "hidden": 8, "last_temperature": 1.0, "dropout": 0.1}}
PISSA = {"method": {"name": "lora", "rank": 2, "init": "pissa"}}
COMPACT = {"method": {"name": "spottune", "rank": 2, "hidden": 8, "compact": 1}}
PROMPT = {"method": {"name": "prompt", "length": 3}, "optimizer": {"name": "adafactor", "lr": 0.1}, "scope": "task"}


class StopAt(Progress):
    """Sets the stop flag of a run after the n-th step of this process: one more step ends, and is committed."""

    def __init__(self, run: Run | None, step: int) -> None:
        super().__init__(quiet=True)
        self.run, self.step, self.seen = run, step, 0

    def track(self, label, total, done=0):
        from contextlib import nullcontext

        return nullcontext(self)

    def advance(self, **shown):
        self.seen += 1
        if self.seen == self.step:
            self.run.stop_requested.set()


def interrupted(bench, name, after, **settings):
    """Runs until a signal after `after` steps."""
    with Run.open(bench.folder / name) as run:
        work = bench.work(run, progress=StopAt(run, after), **settings.pop("work", {}))
        with pytest.raises(Interrupted) as caught:
            stage(**settings).run(bench.base, work)
    assert caught.value.exit_code == 75


def slow(settings):
    return pytest.param(settings, marks=pytest.mark.slow)


def weights(bench, name):
    """SHA-256 of what the stage left."""
    folder = bench.folder / name / "stages" / "0-train"
    return {path.name: file_digest(path) for path in sorted(folder.glob("*/*.safetensors"))}


def commits(bench, name):
    return sorted((bench.folder / name / "stages" / "0-train").glob("commits-*/step-*"))


@pytest.mark.parametrize(
    "settings",
    [{}, FULL, PROMPT, ADALORA, slow(HYBRID), SPOTTUNE, slow(COMPACT), slow(PISSA)],
    ids=["lora with dropout", "full", "prompt", "adalora", "hybrid, a part frozen", "spottune", "compact", "pissa"],
)
def test_interrupted_and_resumed_gives_the_weights_of_an_uninterrupted_run(bench, settings):
    bench.train("whole", **settings)
    interrupted(bench, "cut", 2, **settings)
    interrupted(bench, "cut", 3, **settings)
    bench.train("cut", **settings)
    assert weights(bench, "cut") == weights(bench, "whole")
    assert weights(bench, "whole")
    losses = [[row["loss"] for row in bench.metrics(name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def test_training_equals_a_loop_written_by_hand(bench):
    """Full fine-tuning, plain transformers forward with padding, torch's AdamW, one row at a time."""
    settings = {**FULL, "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "schedule": "linear"}}
    result = bench.train(**settings)
    data = {"task": rows("task", 40)}
    plan = plan_steps(stage(**settings), data, 7, 0)
    model = bench.open(bench.base).model
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, foreach=False)
    for step in range(8):
        total, count = 0.0, 0
        for row in plan.rows(step):
            logits = model(torch.tensor([row.tokens])).logits[0]
            for t in range(1, len(row.tokens)):
                if row.learned[t]:
                    total = total - torch.log_softmax(logits[t - 1], -1)[row.tokens[t]]
                    count += 1
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1.0 if step == 0 else 1 - (step - 1) / 7)
        optimizer.step()
    ours = bench.open(result).model.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=2e-5)


def test_bfloat16_weights_move_at_a_rate_that_rounds_to_nothing(bench):
    """lr 1e-5 on weights of 0.3: each update is far below half a unit in the last place (2^-10 here)."""
    bench.dtype = "bfloat16"
    base = bench.base.__class__(str(bench.model), dtype="bfloat16")
    settings = {"method": "full", "optimizer": {"name": "adamw", "lr": 1e-5, "schedule": "constant"}, "steps": 20}
    result = bench.train(checkpoint=base, **settings)
    master = load_file(commits(bench, "run")[-1] / "weights.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = (bench.open(checkpoint).model.state_dict()[name] for checkpoint in (base, result))
    assert master[name].dtype == torch.float32
    moved = (master[name] - before.float()).abs()
    assert moved.mean() > 5e-5
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, master[name].bfloat16())


def test_a_checkpoint_holds_neither_pickle_nor_a_path(bench):
    bench.train()
    for folder in commits(bench, "run"):
        assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
        for path in folder.glob("*.json"):
            assert str(bench.folder) not in path.read_text().replace(str(bench.model), "")


def test_a_moved_run_folder_resumes(bench):
    bench.train("whole")
    interrupted(bench, "cut", 3)
    (bench.folder / "cut").rename(bench.folder / "moved")
    bench.train("moved")
    assert weights(bench, "moved") == weights(bench, "whole")


@pytest.mark.filterwarnings("ignore:step-.* is damaged")
def test_a_damaged_newest_commit_is_passed_over_and_the_weights_stay_exact(bench):
    bench.train("whole")
    interrupted(bench, "cut", 5)
    newest = commits(bench, "cut")[-1]
    content = bytearray((newest / "weights.safetensors").read_bytes())
    content[-100] ^= 1
    (newest / "weights.safetensors").write_bytes(content)
    bench.train("cut")
    assert weights(bench, "cut") == weights(bench, "whole")
    assert "commit_skipped" in [event["kind"] for event in bench.events("cut")]


@pytest.mark.filterwarnings("ignore:step-.* is damaged")
def test_without_the_optimizer_it_refuses_unless_weights_alone_are_asked_for(bench):
    interrupted(bench, "cut", 3)
    for folder in commits(bench, "cut"):
        (folder / "optimizer.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        bench.train("cut")
    assert caught.value.code == "E-RESUME-DAMAGED"
    assert "--weights-only" in caught.value.fix
    bench.train("cut", work={"weights_only": True})
    assert "not_exact" in [event["kind"] for event in bench.events("cut")]
    assert len(bench.metrics("cut")) == 8


def test_other_settings_are_refused_with_each_difference_unless_forked(bench):
    interrupted(bench, "cut", 3)
    changed = {"optimizer": {"name": "adamw", "lr": 5e-3}}
    with pytest.raises(RecipeError, match=r"stage.optimizer.lr: 0.01 -> 0.005") as caught:
        bench.train("cut", **changed)
    assert caught.value.code == "E-RESUME-DIFFERENT"
    with pytest.raises(RecipeError, match="seed: 7 -> 8"):
        bench.train("cut", work={"seed": 8})
    bench.train("cut", fork=True, **changed)
    steps = [event for event in bench.events("cut") if event["kind"] == "forked"]
    assert len(steps) == 1


def test_settings_that_do_not_reach_the_weights_may_change(bench):
    bench.train("whole")
    interrupted(bench, "cut", 3)
    bench.train("cut", saving={"every": 3, "keep": 1})
    assert weights(bench, "cut") == weights(bench, "whole")
    assert len(commits(bench, "cut")) == 1


def spoil(monkeypatch, steps, factor=float("nan")):
    """Multiplies the loss of these steps by `factor`, the first time that their rows come by."""
    plan = plan_steps(stage(), {"task": rows("task", 40)}, 7, 0)
    bad = [[row.id for row in plan.rows(step - 1)] for step in steps]
    original = NextToken.terms

    def terms(self, view):
        total, count = original(self, view)
        if torch.is_grad_enabled() and view.batch.ids in bad:
            bad.remove(view.batch.ids)
            total = total * factor
        return total, count

    monkeypatch.setattr(NextToken, "terms", terms)


def test_one_bad_loss_skips_the_step_and_names_the_rows(bench, monkeypatch):
    spoil(monkeypatch, [3])
    result = bench.train(saving={"every": 100})
    (event,) = [event for event in bench.events() if event["kind"] == "step_skipped"]
    assert event["step"] == 3
    assert event["loss"] == "nan"
    assert all(row.startswith("task/r") for row in event["rows"])
    assert bench.metrics()[2]["loss"] == "nan"
    assert len(bench.metrics()) == 8
    assert all(
        torch.isfinite(tensor).all()
        for tensor in load_file(result.adapters[0].path / "adapter_model.safetensors").values()
    )


def test_a_skipped_step_leaves_weights_and_moments_alone(bench, monkeypatch):
    """Optimizer steps 1 and 2 only: the third step is skipped, so its commit equals the second one."""
    with monkeypatch.context() as patch:
        spoil(patch, [3])
        interrupted(bench, "cut", 3, saving={"every": 1, "keep": 9})
    first, second = (load_file(commits(bench, "cut")[i] / "optimizer.safetensors") for i in (1, 2))
    assert [path.name for path in commits(bench, "cut")] == ["step-00000001", "step-00000002", "step-00000004"]
    assert first["0.step"] == 2
    assert second["0.step"] == 3


def test_three_bad_losses_roll_back_with_half_the_rate(bench, monkeypatch):
    spoil(monkeypatch, [5, 6, 7], float("inf"))
    bench.train()
    kinds = [event["kind"] for event in bench.events()]
    assert kinds.count("step_skipped") == 3
    assert kinds.count("rolled_back") == 1
    rates = [row["lr"] for row in bench.metrics()]
    assert rates[3] == pytest.approx(0.01 * stage().optimizer.factor(3, 8))
    assert rates[4] == pytest.approx(0.005 * stage().optimizer.factor(4, 8))


def test_a_rate_of_a_billion_ends_as_diverged_with_the_last_good_state_kept(bench):
    with pytest.raises(DivergedError) as caught:
        bench.train(optimizer={"name": "adamw", "lr": 1e9}, saving={"every": 1}, steps=12)
    assert caught.value.code == "E-NONFINITE"
    assert caught.value.exit_code == 5
    for folder in commits(bench, "run"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(folder / "weights.safetensors").values())
    assert not weights(bench, "run")
    assert not any(row["loss"] == 0.0 for row in bench.metrics())


def test_nothing_to_learn_is_refused_before_training(bench):
    masked = rows("task", 4)
    masked.rows = tuple(
        row.__class__(row.id, row.source, row.tokens, (False,) * len(row.tokens)) for row in masked.rows
    )
    with pytest.raises(DataError) as caught:
        bench.train(work={"data": {"task": masked}})
    assert caught.value.code == "E-TRAIN-NOTHING"


def test_unknown_sources_are_refused_with_the_nearest_name(bench):
    with pytest.raises(RecipeError, match="Did you mean 'replay'"):
        bench.train(data={"task": 0.9, "reply": 0.1})
    with pytest.raises(RecipeError) as caught:
        bench.train(losses=["next_token", {"name": "kl_to_base", "on": "replay"}])
    assert caught.value.code == "E-TRAIN-LOSS"


def test_stillness_is_said_once(bench):
    """A rate too small for any loss to move; a prompt whose gradient is clipped away would look the same."""
    same = rows("task", 1)
    bench.train(work={"data": {"task": same}}, optimizer={"name": "adamw", "lr": 1e-30}, steps=14,
                method={"name": "lora", "rank": 4})  # fmt: skip
    (event,) = [event for event in bench.events() if event["kind"] == "nothing_is_learning"]
    assert "loss" in event["reason"]


def test_a_failing_tracker_never_stops_a_run(bench, monkeypatch):
    from keeptune.stages import _trackers

    class Broken:
        def on_train_begin(self, *args, **others):
            raise ConnectionError("no route to host")

    monkeypatch.setattr("transformers.integrations.TrackioCallback", Broken, raising=False)
    monkeypatch.setitem(_trackers.CALLBACKS, "wandb", "NoSuchCallback")
    bench.train(report_to=["trackio", "wandb"])
    failed = {event["tracker"]: event["reason"] for event in bench.events() if event["kind"] == "tracker_failed"}
    assert "no route to host" in failed["trackio"]
    assert "wandb" in failed


def test_tensorboard_gets_the_loss_of_every_step(bench):
    pytest.importorskip("tensorboard")
    bench.train(report_to="tensorboard")
    assert not [event for event in bench.events() if event["kind"] == "tracker_failed"]
    assert list((bench.folder / "run" / "stages" / "0-train").rglob("events.out.tfevents*"))


def test_looks_at_dev_draw_nothing_from_the_generators_of_training(bench):
    bench.train("plain")
    seen = []

    def dev(loaded):
        seen.append(torch.rand(3))
        assert not loaded.model.training
        return float(len(seen))

    bench.train("watched", work={"dev": dev})
    assert len(seen) == 4
    assert weights(bench, "watched") == weights(bench, "plain")


def test_patience_ends_training_and_best_gives_the_best_weights(bench):
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.1])
    saving = {"every": 1, "keep": 1, "best": True, "patience": 2}
    result = bench.train(work={"dev": lambda loaded: next(scores)}, saving=saving)
    assert [row["step"] for row in bench.metrics()] == [1, 2, 3, 4]
    assert [folder.name for folder in commits(bench, "run")] == ["step-00000002", "step-00000004"]
    adapter = load_file(result.adapters[0].path / "adapter_model.safetensors")
    best = load_file(commits(bench, "run")[0] / "weights.safetensors")
    assert sorted(float(t.sum()) for t in adapter.values()) == sorted(float(t.sum()) for t in best.values())


def test_dev_rows_give_a_dev_loss_and_deciding_on_dev_without_dev_is_refused(bench):
    bench.train("with", work={"dev_rows": rows("dev", 5, seed=3)}, saving={"every": 4, "best": True})
    assert [round(row["dev_loss"], 1) > 0 for row in bench.metrics("with") if "dev_loss" in row] == [True, True]
    with pytest.raises(PlanError) as caught:
        bench.train("without", saving={"patience": 2})
    assert caught.value.code == "E-TRAIN-DEV"


def test_snapshots_stand_evenly_along_training(bench):
    result = bench.train(saving={"every": 100, "snapshots": 4})
    kept = snapshots(bench.folder / "run" / "stages" / "0-train", bench.base)
    assert [step for step, _ in kept] == [2, 4, 6, 8]
    last = load_file(kept[-1][1].adapters[0].path / "adapter_model.safetensors")
    final = load_file(result.adapters[0].path / "adapter_model.safetensors")
    first = load_file(kept[0][1].adapters[0].path / "adapter_model.safetensors")
    assert all(torch.equal(last[name], final[name]) for name in final)
    assert not all(torch.equal(first[name], final[name]) for name in final)


def test_promot_trains_the_prompt_then_the_weights_with_the_prompt_frozen_and_active(bench):
    first = bench.train("one", **PROMPT)
    assert first.deployment == "routed"
    second = bench.train("two", checkpoint=first, **FULL)
    assert second.base != first.base
    assert second.adapters == first.adapters
    without = bench.train("three", checkpoint=bench.base, **FULL)
    losses = [[row["loss"] for row in bench.metrics(name)] for name in ("two", "three")]
    assert losses[0][0] != losses[1][0], "the prompt was active"
    assert without.adapters == ()
    assert bench.open(second).model.keeptune.adapter(first.adapters[0].name).trainable is False


def test_kl_on_replay_starts_at_zero_and_needs_no_second_model(bench):
    settings = {"data": {"task": 0.7, "replay": 0.3}, "losses": ["next_token", {"name": "kl_to_base", "on": "replay"}],
                "method": {"name": "lora", "rank": 4}, "batch_tokens": 120}  # fmt: skip
    bench.train(**settings)
    kl = [row["kl_to_base"] for row in bench.metrics() if "kl_to_base" in row]
    assert abs(kl[0]) < 1e-5
    assert kl[-1] > 1e-4
    assert "reference_copy" not in [event["kind"] for event in bench.events()]
    bench.train("full", **{**settings, **FULL})
    told = [event["kind"] for event in bench.events("full")]
    assert "reference_kept" in told
    assert "reference_copy" not in told
    kl = [row["kl_to_base"] for row in bench.metrics("full") if "kl_to_base" in row]
    assert abs(kl[0]) < 1e-5 < kl[-1]


@pytest.mark.parametrize(
    ("setting", "auto", "layers"), [(True, 0, 2), (1, 0, 1), ("auto", 1, 1), ("auto", 9, 2), (False, 1, 0)]
)
@pytest.mark.parametrize(
    "method", [FULL, {"method": {"name": "lora", "rank": 4, "dropout": 0.1}}], ids=["full", "lora"]
)
def test_layers_computed_twice_change_no_weight(bench, setting, auto, layers, method):
    settings = {**method, "optimizer": {"name": "adamw", "lr": 1e-3}, "steps": 3}
    plain = bench.train("plain", **settings)
    memory = {"gradient_checkpointing": setting}
    again = bench.train("again", memory=memory, work={"layers_twice": auto}, **settings)
    one, two = (bench.open(result).model.state_dict() for result in (plain, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    told = [event["layers"] for event in bench.events("again") if event["kind"] == "layers_twice"]
    assert told == ([layers] if layers else [])


def test_a_lora_stage_takes_the_fused_forward_pass_and_says_so(bench):
    bench.train("run", steps=2)
    bench.train("other", steps=2, method={"name": "prefix", "length": 2})
    passes = {name: [e["path"] for e in bench.events(name) if e["kind"] == "forward_pass"] for name in ("run", "other")}
    assert passes["run"] == ["fused"]
    assert len(passes["other"]) == 1
    assert passes["other"][0].startswith("modules: a delta at ")


def test_the_stage_is_one_yaml_mapping(bench):
    plain = stage().to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert stage(**{key: value for key, value in plain.items() if key != "name"}) == stage()
    with pytest.raises(RecipeError, match="not both"):
        stage(epochs=1)
    with pytest.raises(RecipeError, match="answers everybody"):
        stage(**FULL, scope="task")


def test_running_it_again_after_the_end_changes_nothing(bench):
    bench.train()
    before = weights(bench, "run")
    shutil.rmtree(bench.folder / "run" / "stages" / "0-train" / "adapter")
    bench.train()
    assert weights(bench, "run") == before
    assert len(bench.metrics()) == 8


def test_memory_that_runs_out_halves_the_micro_batch_and_changes_nothing(bench, monkeypatch):
    bench.train("plain", method={"name": "lora", "rank": 4})
    original = _step.packed_states

    def scarce(model, batch, **settings):
        if len(batch.tokens) > 25:
            raise torch.cuda.OutOfMemoryError("no memory")
        return original(model, batch, **settings)

    monkeypatch.setattr(_step, "packed_states", scarce)
    bench.train("scarce", method={"name": "lora", "rank": 4})
    events = [event for event in bench.events("scarce") if event["kind"] == "out_of_memory"]
    assert [event["micro_batch_tokens"] for event in events] == [24] or events
    one, two = (
        load_file(bench.folder / name / "stages/0-train/adapter/adapter_model.safetensors")
        for name in ("plain", "scarce")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_plan_is_the_same_for_the_same_seed(bench):
    data = {"task": rows("task", 40)}
    plans = [plan_steps(stage(), data, seed, 0) for seed in (1, 1, 2)]
    assert plans[0].digest == plans[1].digest != plans[2].digest
    assert isinstance(plans[0], Plan)


def test_a_stage_that_samples_a_source_never_sees_its_other_rows_and_mixes_by_what_it_sees():
    data = {"task": rows("task", 64), "general": rows("general", 40)}
    chosen = stage(data={"of": ["general", "task"]}, sample={"task": 1 / 16}, steps=None, epochs=3).fitted(data)
    plan = plan_steps(chosen, data, 7, 0)
    seen = [(row.source, row.id) for row in plan.unique_rows()]
    assert sum(source == "task" for source, _ in seen) == 4
    assert sum(source == "general" for source, _ in seen) == 40
    tokens = {name: sum(len(row.tokens) for row in source.rows) / len(source.rows) for name, source in data.items()}
    assert chosen.shares["task"] == pytest.approx(4 * tokens["task"] / (4 * tokens["task"] + 40 * tokens["general"]))


def test_a_sample_of_a_source_that_the_stage_does_not_train_on_is_refused():
    with pytest.raises(RecipeError, match="'sample' names 'other'"):
        stage(sample={"other": 0.5})


def test_a_quiet_track_takes_any_number():
    Track().advance(loss=float("nan"))


def test_adalora_allocates_by_itself_and_its_penalty_is_no_loss(bench):
    """Rank 2 of 4 on 14 maps: 28 triplets remain, and the file holds no others."""
    work = {"dev_rows": rows("task", 6, seed=1)}
    result = bench.train(**ADALORA, work=work)
    metrics = bench.metrics()
    assert all(row["penalty"] > 0.1 for row in metrics)
    assert all(row["loss"] == pytest.approx(row["next_token"], rel=1e-6) for row in metrics)
    tensors = load_file(result.adapters[0].path / "adapter_model.safetensors")
    ranks = [len(tensor) for name, tensor in tensors.items() if name.endswith("lora_E")]
    assert len(ranks) == 14
    assert sum(ranks) == 28
    assert len(set(ranks)) > 1
    bench.train("plain", method={**ADALORA["method"], "orthogonality": 0.0}, work=work)
    assert all("penalty" not in row for row in bench.metrics("plain"))
    assert bench.metrics("plain")[0]["loss"] == metrics[0]["loss"]
    assert bench.metrics("plain")[0]["gradient_norm"] < metrics[0]["gradient_norm"]


def test_the_frozen_part_of_a_hybrid_is_active_and_stays_as_it_started(bench):
    result = bench.train(**HYBRID)
    (ref,) = result.adapters
    assert ref.name == "prompt-lora-norm"
    trained = bench.open(result).model
    start = bench.open(bench.base).model
    attach(start, stage(**HYBRID).methods, "prompt-lora-norm", seed=7)
    before, after = (dict(model.keeptune.named_parameters()) for model in (start, trained))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert {name for name in before if ".parts.0." in name} == before.keys() - moved
    tokens = torch.tensor([[5, 9, 11]])
    logits = trained(tokens).logits
    with torch.no_grad():
        for name, parameter in trained.keeptune.named_parameters():
            if ".parts.0." in name:
                parameter.zero_()
    assert not torch.allclose(trained(tokens).logits, logits, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (["full", "lora"], "a stage of its own"),
        (["lora", {"name": "prompt", "lenght": 3}], r"method\[1\].lenght: .* Did you mean 'length'"),
        ([], "method"),
        ([{"name": "lora", "frozen": True}], None),
    ],
)
def test_a_hybrid_that_cannot_train_is_refused(bench, method, said):
    """The last one is a fair recipe with nothing to train."""
    if said is None:
        with pytest.raises(PlanError) as caught:
            bench.train(method=method)
        assert caught.value.code == "E-TRAIN-FROZEN"
        return
    with pytest.raises(RecipeError, match=said):
        stage(method=method)


def test_a_compact_spottune_pays_for_its_budget_until_it_settles_and_keeps_its_blocks_alone(bench):
    result = bench.train(**COMPACT)
    assert ["penalty" in row for row in bench.metrics()] == [True] * 6 + [False] * 2
    tensors = load_file(result.adapters[0].path / "adapter.safetensors")
    assert tensors["policy.settled"].sum() == 1
    assert tensors["policy.decisions"].sum() > 0
    chosen = int(tensors["policy.settled"].argmax())
    assert {name.split(".")[2] for name in tensors if name.startswith("model.layers")} == {str(chosen)}
