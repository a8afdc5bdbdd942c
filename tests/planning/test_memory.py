"""The planner's arithmetic against the figures of papers and textbooks, and against real optimisers and files."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.first_step import NAMES, typical
from benchmarks.memory_model import COMBINATIONS
from benchmarks.record import RESULTS
from keeptune.core.cost import Cost, Held
from keeptune.core.shape import ModelShape
from keeptune.data.encoder import Encoded
from keeptune.data.fitting import EncodedSet
from keeptune.data.starts import Starts
from keeptune.losses import _head_rows
from keeptune.methods import Full, LoRA
from keeptune.models.quantize import Linear4bit, put_into_4_bits
from keeptune.planning.forecast import Job, checkpointed, least_checkpointed, refusal, savings
from keeptune.planning.memory import FIRST_STEP, LOGITS_ON_GPU, Base, Step, training_memory
from keeptune.planning.time import Work, operations
from keeptune.recipes.jobs import batches_of, training_bytes
from keeptune.stages.optimizers import Optimizer
from keeptune.stages.train import Train
from tests.tiny_models import tiny_model

LLAMA_7B = ModelShape.from_config(
    {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "tie_word_embeddings": False,
    }
)  # fmt: skip
RECORD = json.loads((RESULTS / "first_step.json").read_text(encoding="utf-8"))
STEP = Step(tokens=2048, row=512, learned=1024)
ATTENTION = LoRA(rank=8, targets=["q", "v"])


def job(method=ATTENTION, quantized=False, **step):
    base = Base(LLAMA_7B, quantized=quantized)
    return Job(
        method.name, base, method.cost(LLAMA_7B), method.trains_base, replace(STEP, **step), Work(10**6, 5 * 10**5)
    )


def test_what_the_first_steps_add_is_the_median_of_the_record():
    assert pytest.approx(RECORD["median"], rel=0.02) == FIRST_STEP
    assert typical(RECORD["rows"]) == RECORD["median"]
    assert [row["what"] for row in RECORD["rows"]] == [one.name for one in COMBINATIONS if one.name in NAMES]


def test_a_runs_training_needs_its_largest_stage_beside_what_the_process_holds():
    small, large = job(), job(Full())
    jobs, process = {"first": large, "second": small}, 7 * 10**8
    assert training_bytes(jobs, process, gpu=False) == large.memory.resident + FIRST_STEP + process
    assert training_bytes(jobs, process, gpu=True) == large.memory.peak + large.base.bytes
    assert training_bytes({}, process, gpu=False) is None


def test_the_state_of_full_tuning_is_sixteen_bytes_a_parameter_with_its_gradients():
    memory = job(Full()).memory
    assert memory.state + memory.gradients == 20 * LLAMA_7B.parameters()  # 16, and the narrow copies of both
    assert memory.weights + memory.trained + memory.moments + 2 * LLAMA_7B.parameters() == 16 * LLAMA_7B.parameters()


def test_lora_needs_two_bytes_a_parameter_and_sixteen_for_each_of_its_own():
    memory, own = job().memory, 4_194_304
    assert memory.state + memory.gradients == 2 * LLAMA_7B.parameters() + 16 * own


def test_seven_billion_parameters_in_nf4_are_the_papers_three_and_a_half_gigabytes_and_the_wide_rest():
    assert LLAMA_7B.matrix_parameters * 0.516e-9 == pytest.approx(3.34, abs=0.01)
    wide = 2 * (LLAMA_7B.parameters() - LLAMA_7B.matrix_parameters)
    assert Base(LLAMA_7B, quantized=True).bytes == pytest.approx(0.516 * LLAMA_7B.matrix_parameters + wide, rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen2"])
@pytest.mark.parametrize("quantized", [False, True])
def test_the_bytes_of_a_base_are_those_of_the_loaded_model(family, quantized):
    model = tiny_model(family).bfloat16()
    shape = ModelShape.from_config(model.config.to_dict())
    if quantized:
        put_into_4_bits(model)
    narrow = [module for module in model.modules() if isinstance(module, Linear4bit)]
    packed = {id(module.weight) for module in narrow}
    wide = sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in packed)
    stored = wide + sum(module.stored_bytes() for module in narrow)
    # Blocks of 256 scales are not full in matrices this small.
    assert Base(shape, 2, quantized).bytes == pytest.approx(stored, abs=8 * len(narrow))


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_the_moments_of_an_optimizer_are_what_its_state_holds(name):
    parameter = nn.Parameter(torch.randn(200, 300))
    kind = Optimizer.find(name)
    optimizer = kind(lr=1e-3).build([("weight", parameter)])
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    held = sum(
        value.numel() * value.element_size()
        for value in optimizer.state[parameter].values()
        if value is not None and isinstance(value, torch.Tensor)
    )
    assert held / parameter.numel() == pytest.approx(kind.moments, abs=0.05)


def test_blocks_of_logits_are_as_large_as_the_loss_makes_them():
    assert STEP.logits_at_once == _head_rows.LOGITS_BYTES
    assert STEP.logits_in_cache == _head_rows.LOGITS_IN_CACHE
    there = {"logits_at_once": _head_rows.LOGITS_BYTES_GPU, "logits_in_cache": _head_rows.LOGITS_AT_ONCE_GPU}
    assert there == LOGITS_ON_GPU


def test_every_saving_is_the_difference_of_two_forecasts():
    whole = job()
    assert set(savings(whole)) >= {"`model.quantize: nf4`", "`memory.gradient_checkpointing: true`"}
    assert savings(whole)["`model.quantize: nf4`"] == whole.memory.peak - job(quantized=True).memory.peak
    checkpointed = job(checkpointed=LLAMA_7B.layers).memory.peak
    assert savings(whole)["`memory.gradient_checkpointing: true`"] == whole.memory.peak - checkpointed


def test_weights_of_32_bits_could_be_of_16_and_those_of_16_no_narrower():
    wide = replace(job(), base=replace(job().base, size=4))
    assert savings(wide)["`model.dtype: bfloat16`"] == wide.memory.peak - job().memory.peak > 0
    assert "`model.dtype: bfloat16`" not in savings(job())


def test_every_layer_computed_twice_saves_memory_and_costs_its_share_of_the_time():
    jobs = [checkpointed(job(), layers) for layers in range(LLAMA_7B.layers + 1)]
    held = [one.memory.activations for one in jobs]
    assert held == sorted(held, reverse=True)
    steps = {round(a - b, -6) for a, b in itertools.pairwise(held)}
    assert max(steps) - min(steps) <= 1e6  # every layer saves the same
    half, whole = jobs[LLAMA_7B.layers // 2].minutes(1e12), jobs[-1].minutes(1e12)
    assert half == pytest.approx((jobs[0].minutes(1e12) + whole) / 2)


@pytest.mark.parametrize("layers", [0, 1, 17, 32])
def test_the_fewest_layers_that_fit_are_computed_twice(layers):
    def needs(memory):
        return memory.activations

    room = needs(checkpointed(job(), layers).memory)
    assert least_checkpointed(job(), room, needs).step.checkpointed == layers
    slow = min(n for n in range(33) if needs(checkpointed(job(), n).memory) <= room)
    assert slow == layers


def test_where_nothing_fits_all_layers_are_computed_twice():
    assert least_checkpointed(job(), 1, lambda memory: memory.peak).step.checkpointed == LLAMA_7B.layers


def test_what_does_not_fit_is_refused_with_its_arithmetic():
    error = refusal(job(), free=10 * 10**9, process=10**9)
    assert error.code == "E-PLAN-MEMORY"
    assert "10.0 GB free" in error.what
    assert "weights 13.5" in error.what
    assert "`model.quantize: nf4` saves" in error.fix


def test_a_reference_that_was_computed_before_is_states_and_the_head_and_costs_no_pass():
    frozen, trained = (job(one, reference="kept", compared=1000) for one in (ATTENTION, Full()))
    states, head = 2 * 1000 * LLAMA_7B.width, 2 * LLAMA_7B.vocabulary * LLAMA_7B.width
    assert frozen.memory.reference == states
    assert trained.memory.reference == states + head
    costs = {one: job(reference=one, compared=1000).minutes(1e12) for one in ("none", "kept", "off")}
    assert costs["none"] < costs["kept"] < costs["off"]


def test_a_copy_for_a_kl_term_counts_where_the_method_cannot_be_taken_off():
    assert job(Full(), reference="copy").memory.state - job(Full()).memory.state == 2 * LLAMA_7B.parameters()
    assert job(reference="off").memory.state == job().memory.state


def test_operations_are_six_for_each_weight_and_token_when_the_base_trains_and_four_when_it_does_not():
    base, work = Base(LLAMA_7B), Work(1000, 0)
    full = operations(base, Cost(1, 1), STEP, work, in_place=True)
    frozen = operations(base, Cost(0, 0, Held(0, 0)), STEP, work, in_place=False)
    assert full == 6 * 1000 * LLAMA_7B.matrix_parameters
    assert frozen == 4 * 1000 * LLAMA_7B.matrix_parameters


def test_virtual_tokens_take_time_and_memory_once_a_row_and_those_of_a_template_once_an_answer():
    base, work = Base(LLAMA_7B), Work(1000, 0, rows=10, answers=30)
    before, around = Cost(0, 0, Held(0, 0), virtual_tokens=20), Cost(0, 0, Held(0, 0), template_tokens=20)
    assert operations(base, before, STEP, work, in_place=False) == 4 * 1200 * LLAMA_7B.matrix_parameters
    assert operations(base, around, STEP, work, in_place=False) == 4 * 1600 * LLAMA_7B.matrix_parameters
    talks = replace(STEP, answers=3)
    longer = replace(STEP, tokens=STEP.tokens + 3 * 20 * 4, row=STEP.row + 3 * 20)
    told = training_memory(base, around, talks, in_place=False)
    assert told.activations == training_memory(base, Cost(0, 0, Held(0, 0)), longer, in_place=False).activations
    assert told.activations > training_memory(base, before, talks, in_place=False).activations


def test_answers_of_the_batches_are_those_that_the_rows_say():
    rows = [
        Encoded(str(n), "task", (5,) * 8, (False, *(True,) * 7), starts=Starts(answers=answers))
        for n, answers in enumerate([(2, 5), (), (3,), (2, 4, 6)])
    ]
    stage = Train(method="lora", data="task", losses=["next_token"], steps=1, batch_tokens=32)
    batches = batches_of(stage, {"task": EncodedSet(tuple(rows), {})}, seed=0)
    assert (batches.work.rows, batches.work.answers) == (4, 7)
    assert batches.answers == 7 / 4


def test_disk_holds_one_commit_more_than_is_kept():
    disk = job().disk()
    assert disk["commits"] == 3 * 12 * 4_194_304
    assert disk["output"] == 4 * 4_194_304
