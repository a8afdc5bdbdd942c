"""AdaLoRA against PEFT's: the allocator's scores and masks, the budget, the penalty, the files."""

from __future__ import annotations

import itertools
import json
import warnings

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close

from keeptune.core.errors import RecipeError
from keeptune.core.shape import ModelShape
from keeptune.core.spec import validate
from keeptune.engine.places import ModuleOutput, Placed
from keeptune.methods import AdaLoRA, Method, after_step, load_adapter, merge, penalty, save_adapter
from keeptune.methods._importance import Triplets
from tests.oracles import adalora as oracle
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TOTAL, FIRST, SETTLED = 40, 4, 12
SCHEDULE = {"warmup": FIRST / TOTAL, "settled": SETTLED / TOTAL, "every": 3}
TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "mlp.c_proj"]}
TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))


def theirs(family="llama", model=None):
    config = AdaLoraConfig(
        target_modules=TARGETS[family], init_r=6, target_r=3, lora_alpha=8, tinit=FIRST, tfinal=SETTLED, deltaT=3,
        total_step=TOTAL, orth_reg_weight=0.3, fan_in_fan_out=family == "gpt2", task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(model or tiny_model(family), config).eval()


def ours(family="llama"):
    model = tiny_model(family)
    method = AdaLoRA(rank=3, initial_rank=6, alpha=8, targets=TARGETS[family], orthogonality=0.3, **SCHEDULE)
    method.attach(model)
    return model


def pairs(peft_model, model):
    """(name, PEFT's parameter, ours) of every A, E and B."""
    parameters = {key: p for key, p in peft_model.named_parameters() if "lora_" in key}
    found = []
    for key, parameter in parameters.items():
        path, _, side = key.removeprefix("base_model.model.").removesuffix(".default").rpartition(".")
        delta = next(p.delta for p in model.keeptune.adapter("default").placed[0] if p.place.path == path)
        found.append((f"{path}.{side}", parameter, getattr(delta, side)))
    return found


def randomise(peft_model, model, spread=0.5):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, reference, parameter in pairs(peft_model, model):
            reference.copy_(torch.randn(reference.shape, generator=generator) * spread)
            parameter.copy_(reference)


def test_scores_and_masks_are_those_of_the_reference_allocator_at_every_step():
    reference, model = theirs(), ours()
    randomise(reference, model)
    matched = pairs(reference, model)
    allocator = reference.base_model.rankallocator
    generator = torch.Generator().manual_seed(4)
    masked = []
    for step in range(1, TOTAL + 1):
        for name, *both in matched:
            gradient = torch.randn(both[0].shape, generator=generator) * (5 if "layers.1.self_attn.q" in name else 1)
            for parameter in both:
                parameter.grad = gradient.clone()
                parameter.data -= 0.02 * gradient
        reference.base_model.update_and_allocate(step)
        after_step(model, "default", step, TOTAL)
        for name, a, b in matched:
            assert_close(b, a, rtol=0, atol=0, msg=f"{name} at step {step}")
        if step < TOTAL - SETTLED:
            for _, delta, _ in model.keeptune.adapter("default").placed[0]:
                key = next(n for n, _, p in matched if p is delta.lora_E)
                full = f"{key}.default"
                expected = allocator._element_score(full).flatten()
                expected = expected + allocator._element_score(full.replace("lora_E", "lora_A")).mean(1)
                expected = expected + allocator._element_score(full.replace("lora_E", "lora_B")).mean(0)
                assert_close(delta.scores(), expected, rtol=1e-5, atol=1e-9)
        masked.append(sum(int((p == 0).sum()) for n, _, p in matched if n.endswith("lora_E")))
    assert masked[FIRST - 1] == 0
    assert masked[-1] == 18
    assert masked[TOTAL - SETTLED :] == [18] * SETTLED
    ranks = [int(delta.alive.sum()) for _, delta, _ in model.keeptune.adapter("default").placed[0]]
    assert len(set(ranks)) > 1


def test_scores_and_masks_are_those_of_the_authors_allocator():
    """`tests/oracles/adalora.py` made the numbers with their code, from the same sines."""
    placed = []
    for name, (inputs, outputs) in oracle.MAPS.items():
        delta = Triplets(inputs, outputs, rank=oracle.RANK, scale=1.0, dropout=0.0).double()
        placed.append(Placed(ModuleOutput(name), delta))
    sides = [(p.place.path, side, getattr(p.delta, f"lora_{side}")) for p in placed for side in "AEB"]
    with torch.no_grad():
        for name, side, parameter in sides:
            parameter.copy_(oracle.wave(0, name, side, parameter.shape))
    shares = {"warmup": oracle.WARMUP / oracle.TOTAL, "settled": oracle.SETTLED / oracle.TOTAL}
    betas = {"beta1": oracle.BETA1, "beta2": oracle.BETA2}
    method = AdaLoRA(rank=oracle.TARGET, initial_rank=oracle.RANK, every=oracle.EVERY, **shares, **betas)
    for step, expected in enumerate(json.loads(oracle.FIXTURE.read_text())["steps"], 1):
        for name, side, parameter in sides:
            parameter.grad = oracle.wave(step, name, side, parameter.shape)
            parameter.data -= oracle.RATE * parameter.grad
        method.after_step(placed, step, oracle.TOTAL)
        for place, delta, _ in placed:
            assert delta.scores().tolist() == pytest.approx(expected["scores"][place.path], rel=1e-9)
            assert delta.lora_E.flatten().tolist() == pytest.approx(expected["lambda"][place.path], abs=1e-11)
    assert expected["lambda"]["second"].count(0.0) == 3


def test_a_pruned_triplet_can_come_back_until_the_pattern_is_fixed():
    model = ours()
    deltas = [placed.delta for placed in model.keeptune.adapter("default").placed[0]]
    generator = torch.Generator().manual_seed(4)
    seen = []
    for step in range(1, TOTAL - SETTLED + 1):
        for delta in deltas:
            for side in (delta.lora_A, delta.lora_E, delta.lora_B):
                side.grad = torch.randn(side.shape, generator=generator)
                side.data -= 0.1 * side.grad
        after_step(model, "default", step, TOTAL)
        seen.append(torch.cat([delta.alive for delta in deltas]))
    came_back = torch.stack([~before & after for before, after in itertools.pairwise(seen)])
    assert came_back.any()


def test_the_budget_is_the_published_schedule_cut_to_whole_numbers():
    allocator, method = theirs().base_model.rankallocator, ours().keeptune.adapter("default").methods[0]
    for step in range(FIRST + 1, TOTAL - SETTLED + 1):
        expected, _ = allocator.budget_schedule(step)
        assert method.budget(36, 6, step, FIRST, TOTAL - SETTLED) == expected


def test_the_penalty_is_that_of_the_reference_and_no_part_of_the_models_loss():
    reference, model = theirs(), ours()
    randomise(reference, model)
    plain = reference.base_model.model(TOKENS, labels=TOKENS).loss
    with_penalty = reference(TOKENS, labels=TOKENS).loss
    assert_close(penalty(model, "default"), with_penalty - plain, rtol=1e-4, atol=1e-5)
    assert_close(model(TOKENS, labels=TOKENS).loss, plain, **CLOSE)


@pytest.mark.parametrize("family", TARGETS)
def test_a_folder_of_peft_loads_with_its_logits(tmp_path, family):
    reference, model = theirs(family), ours(family)
    randomise(reference, model)
    assert_close(model(TOKENS).logits, reference(TOKENS).logits, **CLOSE)
    reference.save_pretrained(tmp_path)
    loaded = tiny_model(family)
    load_adapter(loaded, tmp_path)
    assert_close(loaded(TOKENS).logits, reference(TOKENS).logits, **CLOSE)
    assert (loaded(TOKENS).logits - tiny_model(family)(TOKENS).logits).abs().max() > 0.1


def pruned(family="llama"):
    """Ours after an allocation that leaves nothing in one map and everything in another."""
    model = ours(family)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for number, placed in enumerate(model.keeptune.adapter("default").placed[0]):
            for parameter in placed.delta.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            placed.delta.alive.copy_(torch.arange(6) % 6 >= number)
            if number == 2:
                placed.delta.alive.zero_()
            placed.delta.prune()
    return model


@pytest.mark.parametrize("family", TARGETS)
def test_pruned_triplets_are_not_saved_and_peft_reads_the_rest(tmp_path, family):
    model = pruned(family)
    logits = model(TOKENS).logits
    save_adapter(model, "default", tmp_path)
    tensors = model.keeptune.adapter("default").tensors()
    ranks = [len(tensor) for name, tensor in tensors.items() if name.endswith("lora_E")]
    assert ranks[:4] == [6, 5, 0, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT initialises tensors without elements
        reference = PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    assert_close(reference(TOKENS).logits, logits, **CLOSE)
    loaded = tiny_model(family)
    load_adapter(loaded, tmp_path, trainable=True)
    assert_close(loaded(TOKENS).logits, logits, **CLOSE)
    again = loaded.keeptune.adapter("default").tensors()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    after_step(loaded, "default", 1, 10)
    loaded(TOKENS, labels=TOKENS).loss.backward()
    merge(loaded, "default")
    assert_close(loaded(TOKENS).logits, logits, **CLOSE)


def test_an_adapter_that_was_pruned_by_peft_loads_with_its_logits(tmp_path):
    reference, model = theirs(), ours()
    randomise(reference, model)
    generator = torch.Generator().manual_seed(4)
    for step in range(1, TOTAL + 1):
        for _, parameter, _ in pairs(reference, model):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            parameter.data -= 0.02 * parameter.grad
        reference.base_model.update_and_allocate(step)
    reference.save_pretrained(tmp_path)
    loaded = tiny_model("llama")
    load_adapter(loaded, tmp_path)
    assert_close(loaded(TOKENS).logits, reference(TOKENS).logits, **CLOSE)
    assert sum(delta.rank for _, delta, _ in loaded.keeptune.adapter("default").placed[0]) == 18


@pytest.mark.parametrize("family", TARGETS)
def test_the_count_follows_the_settings(family):
    model, method = tiny_model(family), AdaLoRA(rank=2, targets=TARGETS[family])
    method.attach(model)
    counted = sum(p.numel() for p in model.keeptune.parameters())
    assert method.cost(ModelShape.from_config(model.config.to_dict())).trainable_parameters == counted


def test_without_a_gradient_nothing_is_pruned():
    model = ours()
    for step in range(1, TOTAL + 1):
        after_step(model, "default", step, TOTAL)
    assert all(placed.delta.alive.all() for placed in model.keeptune.adapter("default").placed[0])


@pytest.mark.parametrize(
    ("settings", "said"), [({"warmup": 0.5, "settled": 0.5}, "no steps"), ({"rank": 8, "initial_rank": 4}, "smaller")]
)
def test_a_schedule_that_cannot_be_is_refused(settings, said):
    with pytest.raises(RecipeError, match=said):
        validate(Method, {"name": "adalora", **settings})
