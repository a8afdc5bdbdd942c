"""Modules learn apart, each alone; put together they are what they were, and better than chance before a joint step."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import PlanError, RecipeError
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.data.encode import Encoded
from keeptune.engine.book import detach
from keeptune.methods import load_adapter
from keeptune.models.anatomy import anatomy_of
from keeptune.stages import Stage
from keeptune.stages._step import Objective
from tests.models.test_load import save_tokenizer
from tests.stages.tiny_training import rows
from tests.tiny_models import tiny_model

FAST = {"name": "adamw", "lr": 1e-2}
QUICK = {"modules": 2, "meta_steps": 6, "module_steps": 6, "batch_tokens": 96, "optimizer": FAST}


@pytest.fixture
def incubate(bench):
    """Runs the stage on a model of four blocks; gives the result and the stage's folder."""
    from keeptune.models.load import load
    from keeptune.models.stacking import Block, stacked
    from keeptune.models.writing import save_model

    base = load(bench.model, dtype="float32", device="cpu")
    deep = stacked(base.model, [Block(base.model, n % 2) for n in range(4)], first=base.model, last=base.model, seed=0)
    folder = bench.folder / "deep"
    folder.mkdir()
    save_model(replace(base, model=deep), folder)

    def go(name="run", checkpoint=None, data=None, *, fork=False, **settings):
        stage = validate(Stage, {"name": "deep_incubation", **QUICK, **settings})
        with Run.open(bench.folder / name, fork=fork) as run:
            work = bench.work(run, **({"data": data} if data else {}))
            return stage.run(checkpoint or Checkpoint(str(folder), dtype="float32"), work), work.folder

    go.base = folder
    return go


def loss_of(bench, checkpoint) -> float:
    from keeptune.losses import Loss
    from keeptune.methods import attach
    from keeptune.methods.full import Full
    from keeptune.stages._masters import Masters

    model = bench.open(checkpoint).model
    attach(model, [Full()], "all", seed=0)
    masters = Masters(model)
    objective = Objective(model, masters, [Loss.find("next_token")()], {"task": ()}, None, 10**6)
    return objective.value(rows("task", 40).rows)  # what was learned from


def test_what_is_assembled_holds_the_modules_bitwise_and_answers_better_than_untrained(bench, incubate):
    result, folder = incubate(meta="scratch", start="random", meta_steps=40, module_steps=40)
    whole = bench.open(result).model.state_dict()
    listed = json.loads((folder / "manifest.json").read_text())
    assert list(listed) == ["deep_incubation-meta", "deep_incubation-1", "deep_incubation-2"]
    parts = [bench.open(Checkpoint.from_dict(one["checkpoint"], relative_to=folder)).model for one in listed.values()]
    meta, first, second = (part.state_dict() for part in parts)
    assert parts[0].config.num_hidden_layers == 2
    assert parts[1].config.num_hidden_layers == 3
    for place, (module, inner) in enumerate([(first, 0), (first, 1), (second, 1), (second, 2)]):
        for key in ("mlp.up_proj.weight", "self_attn.q_proj.weight", "input_layernorm.weight"):
            assert torch.equal(whole[f"model.layers.{place}.{key}"], module[f"model.layers.{inner}.{key}"])
    assert torch.equal(whole["model.embed_tokens.weight"], first["model.embed_tokens.weight"])
    assert torch.equal(whole["lm_head.weight"], second["lm_head.weight"])
    # What a module does not own, it left as the meta model had it.
    assert torch.equal(first["lm_head.weight"], meta["lm_head.weight"])
    assert torch.equal(first["model.norm.weight"], meta["model.norm.weight"])
    assert torch.equal(second["model.embed_tokens.weight"], meta["model.embed_tokens.weight"])
    assert torch.equal(first["model.layers.2.mlp.up_proj.weight"], meta["model.layers.1.mlp.up_proj.weight"])
    assert loss_of(bench, result) < 0.8 * loss_of(bench, Checkpoint(str(incubate.base), dtype="float32"))


def test_a_dropped_meta_model_keeps_the_last_block_of_each_module(bench, incubate):
    _, folder = incubate(meta_steps=1, module_steps=1)
    meta = json.loads((folder / "manifest.json").read_text())["deep_incubation-meta"]
    assert meta["steps"] == 1
    assert not list(folder.glob("*-begun"))


def test_a_second_run_trains_nothing_and_a_lost_module_is_trained_again_alone(bench, incubate):
    result, folder = incubate()
    steps = len(bench.metrics())
    assert steps == 3 * 6
    again, _ = incubate()
    assert again == result
    assert len(bench.metrics()) == steps
    manifest = folder / "manifest.json"
    listed = json.loads(manifest.read_text())
    del listed["deep_incubation-2"]
    manifest.write_text(json.dumps(listed))
    weights = bench.open(result).model.state_dict()
    incubate()
    redone = bench.open(result).model.state_dict()
    assert all(torch.equal(weights[name], redone[name]) for name in weights)


@pytest.mark.slow
def test_other_rows_train_every_part_anew(bench, incubate):
    one, _ = incubate()
    before = bench.open(one).model.state_dict()
    other, _ = incubate(data={"task": rows("task", 40, seed=9)}, fork=True)
    after = bench.open(other).model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_depth_that_cannot_be_cut_is_refused_with_those_that_can(incubate):
    with pytest.raises(PlanError) as caught:
        incubate(modules=3)
    assert caught.value.code == "E-INCUBATE-DEPTH"
    assert "2, 4" in caught.value.fix


def test_adapters_are_not_dropped_in_silence(bench, incubate):
    adapted = bench.train("lora", steps=1)
    with pytest.raises(PlanError) as caught:
        incubate(checkpoint=replace(adapted, base=str(incubate.base)))
    assert caught.value.code == "E-INCUBATE-ADAPTERS"


LABELS = {"losses": ["label"], "head": {"pooling": "mean"}}
STARTS = {"scratch": "random", "dropped": "pretrained"}


def labelled(family):
    """Rows whose label can be seen: bright and dark images, texts by the parity of a token."""
    if family != "vit":
        made = [replace(row, answer=("even", "odd")[row.tokens[0] % 2]) for row in rows("task", 40).rows]
        return {"task": SimpleNamespace(rows=tuple(made))}
    draw, made = random.Random(3), []
    for number in range(40):
        answer = draw.choice(["bright", "dark"])
        tokens = tuple(draw.randrange(128) + 127 * (answer == "bright") for _ in range(64))
        made.append(Encoded(f"r{number}", "task", tokens, (False,) * 64, answer))
    return {"task": SimpleNamespace(rows=tuple(made))}


@pytest.mark.parametrize(
    ("family", "meta"),
    [
        ("vit", "scratch"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("vit", "dropped"), ("bert, bare", "scratch")]),
    ],
)
def test_an_encoder_learns_labels_in_modules_and_a_joint_stage_goes_on_with_its_head(bench, family, meta):
    folder = bench.folder / "encoder"
    tiny_model(family, num_hidden_layers=4).save_pretrained(folder)
    if family != "vit":
        save_tokenizer(folder)
    settings = {**QUICK, **LABELS, "meta": meta, "start": STARTS[meta], "batch_tokens": 640}
    stage = validate(Stage, {"name": "deep_incubation", "id": "modules", **settings})
    data = labelled(family)
    with Run.open(bench.folder / "run") as run:
        work = bench.work(run, data=data)
        result = stage.run(Checkpoint(str(folder), dtype="float32"), work)
    listed = json.loads((work.folder / "manifest.json").read_text())
    parts = [Checkpoint.from_dict(one["checkpoint"], relative_to=work.folder) for one in listed.values()]
    meta_model, first, second = (bench.open(replace(part, adapters=())).model.state_dict() for part in parts)
    heads = [load_file(part.adapters[0].path / "adapter.safetensors") for part in (*parts, result)]
    assert [ref.name for ref in result.adapters] == ["modules"]
    whole = bench.open(replace(result, adapters=())).model
    assert len(anatomy_of(whole).layers) == 4
    load_adapter(whole, result.adapters[0].path, "unforced")  # the head says that it belongs to the whole model
    detach(whole, "unforced")
    whole = whole.state_dict()
    before = [name for name in whole if name.startswith("embeddings.") and name.endswith("weight")]
    for name in before:
        assert torch.equal(whole[name], first[name])
        assert torch.equal(second[name], meta_model[name])
        assert not torch.equal(first[name], meta_model[name]) or "token_type" in name
    meta_head, first_head, second_head, kept = heads
    for name, tensor in kept.items():
        assert torch.equal(tensor, second_head[name])
        assert torch.equal(meta_head[name], first_head[name]), "inside the first module's hybrid the head is frozen"
    assert any(not torch.equal(kept[name], meta_head[name]) for name in kept), "the last module trains it"
    settings = {"method": "full", "losses": ["label"], "optimizer": {"name": "adamw", "lr": 3e-3}, "steps": 30}
    joint = bench.train("joint", result, **settings, thaw=["modules"], batch_tokens=640, work={"data": data})
    after = load_file(joint.adapters[0].path / "adapter.safetensors")
    assert any(not torch.equal(after[name], kept[name]) for name in kept)
    assert bench.metrics("joint")[-1]["loss"] < 0.5 * math.log(2), "better than a coin"


def test_labels_without_a_head_are_refused(incubate):
    for settings in ({"losses": ["label"]}, {"head": {"pooling": "mean"}}):
        with pytest.raises(RecipeError, match="set both, or neither"):
            incubate(**settings)
    with pytest.raises(RecipeError, match="reads the last states"):
        incubate(losses=["label"], head={"layer": "mix"})
