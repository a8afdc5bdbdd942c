"""What every method on the shelf promises, checked on a tiny decoder; a new file on the shelf is tested by this one."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from keeptune.core.errors import ModelError, PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.attention import use_attention
from keeptune.engine.batch import PackedBatch
from keeptune.engine.book import base_parameters, base_state_dict, book_of, detach
from keeptune.engine.generation import generate
from keeptune.engine.head import head_logits
from keeptune.engine.packed import packed_hidden
from keeptune.engine.request_parts import divided
from keeptune.engine.rows import active, off, rows
from keeptune.methods import LoRA, Method, attach, cost, load_adapter, save_adapter
from keeptune.models.quantize import put_into_4_bits, quantization_of
from tests.tiny_models import VOCABULARY, tiny_model

NAMES = [name for name in Method.names() if not Method.find(name).reads_only]  # tests/methods/test_head.py has those
DETACHABLE = [name for name in NAMES if Method.find(name).detachable]
SMALL = {"rank": 4, "length": 3, "bottleneck": 4, "hidden": 8, "add_missing": True, "type": "vera"}
SMALL["settings"] = {"r": 4}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
WIDTH = 7


class PadZero:
    pad_token_id = 0


@pytest.fixture
def model():
    return tiny_model("llama")


def precise():
    """A model in float64, where a rounding of the processor's own cannot pass for a fault, nor hide one."""
    model = tiny_model("llama").double()
    use_attention(model)
    return model


def small(name):
    """A member with small settings, whichever of them it has."""
    kind = Method.find(name)
    return kind(**{field: value for field, value in SMALL.items() if field in kind.model_fields})


def shaken(model, method, name="one", seed=1):
    """Attaches a method and moves its parameters away from their start, as training would."""
    method.attach(model, name)
    adapter, generator = model.keeptune.adapter(name), torch.Generator().manual_seed(seed)
    own = [parameter for key, parameter in base_parameters(model) if key in adapter.trained]
    with torch.no_grad():
        for parameter in (*adapter.parameters(), *own):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.05 if own else 0.3))
    return model


def tokens(batch=3, width=WIDTH, seed=5):
    return torch.randint(3, VOCABULARY, (batch, width), generator=torch.Generator().manual_seed(seed))


def padded(texts):
    """The texts behind zeros, and the mask."""
    width = max(len(text) for text in texts)
    ids, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, width - len(text) :], mask[row, width - len(text) :] = torch.tensor(text), 1
    return ids, mask


def gradients(model):
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NAMES)
def test_a_method_that_declares_identity_changes_nothing_at_its_start(model, name):
    before = model(tokens()).logits
    small(name).attach(model)
    after = model(tokens()).logits
    assert torch.equal(before, after) == small(name).identity_at_start


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_starts_alike_and_another_seed_does_not_share_random_values(name):
    starts = []
    for seed in (3, 3, 4):
        model = tiny_model("llama")
        torch.rand(seed)
        small(name).attach(model, seed=seed)
        starts.append(list(model.keeptune.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(starts[0], starts[1], strict=True))
    constant = all(tensor.unique().numel() == 1 for tensor in starts[0])
    if not constant:
        assert not all(torch.equal(a, b) for a, b in zip(starts[0], starts[2], strict=True))


@pytest.mark.parametrize("name", DETACHABLE)
def test_taking_a_method_off_leaves_the_base_bitwise_and_no_trace(model, name):
    before, names = model(tokens()).logits, list(model.state_dict())
    modules, needed = dict(model.named_modules()), {key: p.requires_grad for key, p in model.named_parameters()}
    shaken(model, small(name))
    assert not torch.equal(model(tokens()).logits, before)
    assert list(base_state_dict(model)) == names
    with off(model):
        assert torch.equal(model(tokens()).logits, before)
    detach(model, "one")
    assert torch.equal(model(tokens()).logits, before)
    assert list(model.state_dict()) == names
    assert dict(model.named_modules()) == modules
    assert {key: p.requires_grad for key, p in model.named_parameters()} == needed
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(DETACHABLE)))
def test_a_method_that_cannot_be_taken_off_says_so(model, name):
    small(name).attach(model)
    with pytest.raises(PlanError) as caught:
        detach(model, "default")
    assert caught.value.code == "E-ADAPTER-DETACH"


@pytest.mark.parametrize("name", NAMES)
def test_an_optimiser_step_moves_the_methods_own_parameters_and_no_others(model, name):
    method = small(name)
    shaken(model, method)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()
    model(tokens(), labels=tokens()).loss.backward()
    torch.optim.AdamW(trained, lr=1e-2).step()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    own = {key for key in before if key.startswith("keeptune.")}
    assert moved == (set(method.trained(model)) if method.trains_base else own)
    assert moved


@pytest.mark.parametrize(
    "family", ["llama", "llama, biases, one key head, tied", "gemma3_text", "phi3", "gpt2", "gpt_neox"]
)
@pytest.mark.parametrize("name", NAMES)
def test_the_closed_form_cost_is_the_number_of_trainable_parameters(name, family):
    model, method = tiny_model(family), small(name)
    method.attach(model)
    cost = method.cost(ModelShape.from_config(model.config.to_dict()))
    assert cost.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    if method.detachable:
        stored = model.keeptune.adapter("default").tensors().values()
        assert cost.stored_bytes == sum(t.numel() * t.element_size() for t in stored)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_adapter_is_active_but_has_nothing_to_train(model, name):
    small(name).attach(model, trainable=False)
    assert model.keeptune.active == ("default",)
    assert not any(p.requires_grad for p in model.parameters())


CHILD = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from keeptune.methods import load_adapter
folder, tokens = sys.argv[1], torch.tensor(json.loads(sys.argv[2]))
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(f"{folder}/base", dtype=torch.float32, attn_implementation="eager").eval()
found = {}
for name in json.loads(sys.argv[3]):
    if (Path(folder) / name / "config.json").exists():
        whole = AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", attn_implementation="eager").eval()
        found[name] = whole(tokens).logits.detach()
        continue
    load_adapter(model, f"{folder}/{name}", name)
    found[name] = model(tokens).logits.detach()
save_file(found, f"{folder}/found.safetensors")
"""


def test_what_was_saved_gives_the_same_logits_in_a_fresh_process(tmp_path):
    """An adapter in its folder; the whole model where a method trains the base itself."""
    expected = {}
    tiny_model("llama").save_pretrained(tmp_path / "base")
    for name in NAMES:
        model = shaken(tiny_model("llama"), small(name), name)
        if Method.find(name).trains_base:
            model.save_pretrained(tmp_path / name, state_dict=base_state_dict(model))
        else:
            save_adapter(model, name, tmp_path / name)
        expected[name] = model(tokens()).logits
    command = [sys.executable, "-W", "ignore", "-c", CHILD]
    command += [str(tmp_path), json.dumps(tokens().tolist()), json.dumps(NAMES)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    found = load_file(tmp_path / "found.safetensors")
    for name in NAMES:
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("name", DETACHABLE)
def test_a_saved_adapter_is_reopened_for_training(model, tmp_path, name):
    shaken(model, small(name))
    save_adapter(model, "one", tmp_path / "saved")
    stored = model.keeptune.adapter("one").tensors()
    fresh = tiny_model("llama")
    load_adapter(fresh, tmp_path / "saved", "again", trainable=True)
    assert book_of(fresh).adapter("again").methods[0].to_dict() == {**small(name).saved_settings()}
    for key, tensor in fresh.keeptune.adapter("again").tensors().items():
        assert torch.equal(tensor, stored[key])
    fresh(tokens(), labels=tokens()).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fresh.keeptune.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_merging_changes_no_output_or_is_refused_with_the_reason(model, name):
    method = shaken(model, small(name)) and small(name)
    before = model(tokens()).logits
    if not method.mergeable:
        with pytest.raises(PlanError) as caught:
            method.merge(model, "one")
        assert caught.value.code == "E-ADAPTER-MERGE"
        assert torch.equal(model(tokens()).logits, before)
        return
    method.merge(model, "one")
    assert book_of(model) is None
    assert_close(model(tokens()).logits, before, rtol=1e-4, atol=1e-4)
    merged = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(PlanError, match="no adapter is called 'one'"):
        method.merge(model, "one")
    assert all(torch.equal(value, merged[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_no_logits_of_the_text(name, side):
    model = shaken(precise(), small(name))
    lengths = [4, WIDTH, 2]
    texts = [row[:length] for row, length in zip(tokens(), lengths, strict=True)]
    padded, mask = torch.zeros(3, WIDTH, dtype=torch.long), torch.zeros(3, WIDTH, dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(WIDTH - len(text), WIDTH) if side == "left" else slice(0, len(text))
        padded[row, place], mask[row, place] = text, 1
    logits = model(padded, attention_mask=mask).logits
    for row, text in enumerate(texts):
        assert_close(logits[row][mask[row].bool()], model(text[None]).logits[0], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_cached_batched_generation_is_one_by_one_generation_without_a_cache(model, name):
    shaken(model, small(name))
    prompts = [row[:length].tolist() for row, length in zip(tokens(4), [3, 7, 1, 5], strict=True)]
    answers = generate(model, PadZero(), prompts, max_new_tokens=8, stop_ids={2})
    assert answers == [greedy(model, prompt, 8, stop=2) for prompt in prompts]


def greedy(model, prompt, limit, stop):
    """The definition of greedy decoding: the whole text again for every token."""
    written = []
    for _ in range(limit):
        with divided(answers=[[len(prompt)]]):
            token = int(model(torch.tensor([prompt + written])).logits[0, -1].argmax())
        if token == stop:
            break
        written.append(token)
    return written


@pytest.mark.parametrize("name", DETACHABLE)
def test_a_mixed_batch_writes_and_searches_what_each_row_would_alone(name):
    """Left padding, cache and rows at once: greedy with our generation, beams with that of transformers."""
    model = shaken(precise(), small(name), "ana")
    shaken(model, LoRA(rank=2), "bo", seed=2)
    prompts = [row[:length].tolist() for row, length in zip(tokens(4), [3, 7, 1, 5], strict=True)]
    stacks = ["ana", "bo", None, ("bo", "ana")]
    greedily, searched = [], []
    for prompt, stack in zip(prompts, stacks, strict=True):
        with active(model, stack):
            greedily.append(greedy(model, prompt, 5, stop=2))
            searched.append(beam_search(model, prompt, 3, 4, never=2))
    assert generate(model, PadZero(), prompts, rows=stacks, max_new_tokens=5, stop_ids={2}) == greedily
    ids, mask = padded(prompts)
    search = {"num_beams": 3, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with rows(model, stacks, repeat=3):
        found = model.generate(ids, attention_mask=mask, eos_token_id=2, **search)
    assert found[:, -4:].tolist() == searched
    assert len({tuple(answer) for answer in searched}) > 1


def beam_search(model, prompt, width, limit, never):
    """The definition: at each step the best of all continuations of the best texts, each from the whole text."""
    beams = [(0.0, [])]
    for _ in range(limit):
        grown = []
        with divided(answers=[[len(prompt)]] * len(beams)):
            texts = torch.tensor([prompt + written for _, written in beams])
            scores = model(texts, use_cache=False).logits[:, -1].log_softmax(-1)
        scores[:, never] = float("-inf")
        for (total, written), row in zip(beams, scores.tolist(), strict=True):
            grown += [(total + score, [*written, token]) for token, score in enumerate(row)]
        beams = sorted(grown, key=lambda beam: -beam[0])[:width]
    return beams[0][1]


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_leaves_the_gradients_as_they_are(name):
    found = []
    for checkpointing in (False, True):
        model = shaken(tiny_model("llama"), small(name)).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(tokens(), labels=tokens(), use_cache=False).loss.backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("name", DETACHABLE)
def test_a_second_method_stacks_on_the_first(model, name):
    base = model(tokens()).logits
    shaken(model, small(name), "first")
    first = model(tokens()).logits
    shaken(model, LoRA(rank=2), "second", seed=2)
    second = model(tokens()).logits
    with active(model, ["first", "second"]):
        both = model(tokens()).logits
    with active(model, "first"):
        assert torch.equal(model(tokens()).logits, first)
    assert len({str(logits[0, -1].tolist()) for logits in (base, first, second, both)}) == 4
    detach(model, "first")
    assert torch.equal(model(tokens()).logits, second)


@pytest.mark.parametrize("name", DETACHABLE)
def test_a_hybrid_with_lora_is_the_two_stacked_and_survives_its_file(model, tmp_path, name):
    shaken(model, small(name), "first")
    shaken(model, LoRA(rank=2), "second", seed=2)
    with active(model, ["first", "second"]):
        expected = model(tokens()).logits
    hybrid = tiny_model("llama")
    attach(hybrid, [small(name), LoRA(rank=2)], "both")
    values = [*model.keeptune.adapter("first").parameters(), *model.keeptune.adapter("second").parameters()]
    with torch.no_grad():
        for parameter, value in zip(hybrid.keeptune.parameters(), values, strict=True):
            parameter.copy_(value)
    assert_close(hybrid(tokens()).logits, expected, **CLOSE)
    save_adapter(hybrid, "both", tmp_path / "both")
    fresh = tiny_model("llama")
    load_adapter(fresh, tmp_path / "both", "both")
    assert torch.equal(fresh(tokens()).logits, hybrid(tokens()).logits)


@pytest.mark.parametrize("name", DETACHABLE)
def test_a_frozen_part_of_a_hybrid_is_active_stored_and_costs_no_training(model, name):
    methods = [small(name).model_copy(update={"frozen": True}), LoRA(rank=2)]
    attach(model, methods, "both")
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert trained == {key for key, _ in model.named_parameters() if ".parts.1." in key}
    shape = ModelShape.from_config(model.config.to_dict())
    counted = cost(methods, shape)
    assert counted.trainable_parameters == LoRA(rank=2).cost(shape).trainable_parameters
    stored = model.keeptune.adapter("both").tensors().values()
    assert counted.stored_bytes == sum(t.numel() * t.element_size() for t in stored)
    model(tokens(), labels=tokens()).loss.backward()
    assert all((p.grad is not None) == (key in trained) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", DETACHABLE)
def test_rows_with_different_adapters_give_what_each_gives_alone(name):
    model = shaken(precise(), small(name), "ana")
    shaken(model, LoRA(rank=2, targets=["q", "down"]), "bo", seed=2)
    stacks = ["ana", "bo", None, ("bo", "ana")]
    texts = tokens(4)
    alone = []
    for row, stack in enumerate(stacks):
        with active(model, stack):
            alone.append(model(texts[row : row + 1]).logits[0])
    with rows(model, stacks):
        together = model(texts).logits
    assert_close(together, torch.stack(alone), **CLOSE)
    batch = PackedBatch(
        tokens=texts.flatten(),
        positions=torch.arange(WIDTH).repeat(4),
        offsets=[0, 7, 14, 21, 28],
        targets=torch.full((28,), -100),
        weights=None,
        adapters=[("ana",), ("bo",), None, ("bo", "ana")],
        sources=[""] * 4,
        ids=[""] * 4,
    )
    assert_close(head_logits(model, packed_hidden(model, batch)), torch.cat(alone), **CLOSE)


@pytest.mark.parametrize("name", DETACHABLE)
def test_training_rows_together_gives_the_gradients_of_training_them_apart(name):
    found = []
    for together in (True, False):
        model = shaken(precise(), small(name), "ana")
        shaken(model, small(name), "bo", seed=2)
        if together:
            with rows(model, ["ana", None, "bo"]):
                model(tokens()).logits.square().sum().backward()
        else:
            for row, stack in enumerate(["ana", None, "bo"]):
                if stack is not None:
                    with active(model, stack):
                        model(tokens()[row : row + 1]).logits.square().sum().backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        assert_close(gradient, found[1][key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DETACHABLE)
def test_in_bfloat16_parameters_stay_float32_and_outputs_keep_the_base_dtype(name):
    model = tiny_model("llama").to(torch.bfloat16)
    shaken(model, small(name))
    assert {p.dtype for p in model.keeptune.parameters()} == {torch.float32}
    logits = model(tokens()).logits
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_method_works_on_a_4_bit_base_or_refuses_it_by_name(model, tmp_path, name):
    put_into_4_bits(model)
    base, method = model(tokens()).logits, small(name)
    if not method.fits_4bit:
        with pytest.raises(PlanError, match=name) as caught:
            method.attach(model)
        assert caught.value.code == "E-METHOD-QUANTISED"
        return
    shaken(model, method)
    adapted = model(tokens()).logits
    assert not torch.equal(adapted, base)
    model(tokens(), labels=tokens()).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.keeptune.parameters())
    save_adapter(model, "one", tmp_path / "saved")
    with off(model):
        assert torch.equal(model(tokens()).logits, base)
    if method.mergeable:
        merged = copy.deepcopy(model)
        method.merge(merged, "one")
        assert quantization_of(merged) is None
        assert_close(merged(tokens()).logits, adapted, rtol=1e-4, atol=1e-4)
    detach(model, "one")
    assert torch.equal(model(tokens()).logits, base)
    load_adapter(model, tmp_path / "saved", "again")
    assert torch.equal(model(tokens()).logits, adapted)
    with pytest.raises(ModelError, match="quantize"):
        load_adapter(tiny_model("llama"), tmp_path / "saved")


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_plain_data(name):
    method = small(name)
    assert Method.model_validate(method.to_dict()) == method


@pytest.mark.parametrize("name", NAMES)
def test_a_method_has_few_settings_each_described(name):
    fields = Method.find(name).model_fields
    assert len(fields) <= 12
    assert all(field.description for field in fields.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_method_has_a_page_in_the_docs(name):
    assert (Path(__file__).parents[2] / "docs" / "methods" / f"{name}.md").read_text().startswith("# ")
