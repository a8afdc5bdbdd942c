"""Every recipe of the shelf parses, is planned and trains two steps of each stage; a second run does nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import keeptune.pocket
from keeptune.recipes.plan import plan_recipe
from keeptune.recipes.recipe import FOLDER, load_recipe
from keeptune.recipes.run import run_recipe

NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "demo")
POCKET = Path(keeptune.pocket.__file__).parent / "weights"
NEEDS_MORE = {"qlora": "bitsandbytes on this machine"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two random layers behind pocket's tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig.from_pretrained(POCKET)
    config.hidden_size, config.intermediate_size, config.head_dim = 32, 48, 16
    config.num_attention_heads = config.num_key_value_heads = config.num_hidden_layers = 2
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(POCKET / name, folder)
    return folder


SHORT = {
    "train": ("epochs=null", "steps=2", "batch_tokens=256"),
    # A random model writes no conversation, so that there is no general request to answer.
    "distill": ("epochs=null", "steps=2", "batch_tokens=256", "max_new_tokens=4", "on=task", "data=task"),
    "rejection_sampling": ("verifier=tests.recipes.any_answer", "max_new_tokens=400", "samples=2"),  # it is never right
    "rewrite": ("rows=4", "max_new_tokens=4"),
    "gate": ("action=report", "rows=10"),
    "deep_incubation": ("modules=2", "meta_steps=2", "module_steps=2", "batch_tokens=256"),
}
"""Settings that make a stage short on two random layers."""


def small(name: str, model: Path) -> list[str]:
    recipe = load_recipe(name)
    settings = [f"model.name={model}", "model.dtype=float32", "proof.items=50"]
    sources = {"embedded": ("train=3", "dev=1", "test=1"), "generated": ("rows=4", "max_tokens=12", "chats=0")}
    for source, made in recipe.data.items():
        settings += [f"data.{source}.{key}" for key in sources.get(made.name, ())]
    for index, stage in enumerate(recipe.stages):
        settings += [f"stages[{index}].{setting}" for setting in SHORT.get(stage.name, ())]
    return settings


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_planned_trains_and_is_not_run_twice(name, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(model.parent / "cache"))
    monkeypatch.setattr("keeptune.recipes.plan.product_rate", lambda device, dtype: 1e11)
    settings = small(name, model)
    if name in NEEDS_MORE:
        pytest.importorskip("bitsandbytes")
    assert plan_recipe(name, settings)["text"]
    run_recipe(name, tmp_path / "run", settings, skip_base=True, quiet=True)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    trained = sum(
        {"train": 1, "distill": 1, "deep_incubation": 3}.get(stage.name, 0) for stage in load_recipe(name).stages
    )
    assert metrics.count(b"\n") == 2 * trained
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "stages").rglob("*.safetensors")}
    assert weights
    run_recipe(name, tmp_path / "run", settings, skip_base=True, quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics
    assert {path: path.stat().st_mtime_ns for path in weights} == weights


def test_dmt_goes_on_with_a_share_of_the_special_rows():
    special, general = load_recipe("dmt").stages
    assert set(special.shares) | {"general"} == set(general.shares)
    assert general.sample == {"task": 1 / 256, "second": 1 / 256}
