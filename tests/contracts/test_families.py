"""The promises of every method on every family: each works there, or is refused by name."""

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

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.attention import use_attention
from keeptune.engine.book import base_state_dict, detach
from keeptune.engine.generation import generate
from keeptune.engine.rows import active, off, rows
from keeptune.methods import LoRA, Method, load_adapter, save_adapter
from keeptune.models.anatomy import anatomy_of
from keeptune.models.quantize import put_into_4_bits, quantization_of
from tests.contracts.test_methods import PadZero, greedy, shaken, small
from tests.tiny_models import ENCODERS, IMAGES, OTHERS, SEQ2SEQ, VOCABULARY, inputs_of, tiny_model

NAMES = [name for name in Method.names() if not Method.find(name).reads_only]
DECODERS = [
    "llama, biases, one key head, tied",
    "mistral, window",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gpt2",
    "gpt_neox",
]
"""Those beside the plain Llama of `test_methods.py`."""
FAMILIES = [*OTHERS, *DECODERS]
QUICK = ["bert", "t5", "vit"]
"""One of each kind; the other families run in `make test-all`."""

REFUSED = {family: {"spottune"} if family in SEQ2SEQ else set() for family in OTHERS}
"""Methods that cannot work on a family; SpotTune makes one decision for a row, which is computed in one part."""
REFUSED["deberta-v2"] |= {"spottune", "prefix", "p_tuning_v2", "mam"}
REFUSED["vit"] |= {"prompt", "p_tuning"}

DISTANCES = {"lora", "dora", "adalora", "ia3", "bitfit", "peft"}
"""Methods that change DeBERTa's maps of queries and keys, which its rows share."""

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def cases(families=FAMILIES, *, detachable=False):
    for family in families:
        for name in NAMES:
            if name in REFUSED.get(family, ()) or (detachable and not Method.find(name).detachable):
                continue
            yield pytest.param(family, name, marks=() if family in QUICK else pytest.mark.slow)


every = pytest.mark.parametrize(("family", "name"), list(cases()))
every_detachable = pytest.mark.parametrize(("family", "name"), list(cases(detachable=True)))
every_reader = pytest.mark.parametrize(
    ("family", "name"), list(cases([family for family in FAMILIES if family not in IMAGES]))
)
every_writer = pytest.mark.parametrize(("family", "name"), list(cases([*SEQ2SEQ, *DECODERS])))


def double(family):
    """In float64, where a rounding of the processor's own cannot pass for a fault."""
    model = tiny_model(family).double()
    if family in ENCODERS and not anatomy_of(model).registry:
        return model
    use_attention(model)
    return model


def outcome(model, family, **settings):
    """What the model returns for text or images: logits, or the hidden states of a bare body."""
    wide = next(model.parameters()).dtype
    inputs = {
        key: value.to(wide) if value.is_floating_point() else value
        for key, value in inputs_of(family, **settings).items()
    }
    output = model(**inputs)
    return output.logits if "logits" in output else output.last_hidden_state


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, names in REFUSED.items() for name in sorted(names)]
)
def test_a_method_that_cannot_work_on_a_family_is_refused_by_name(family, name):
    model = tiny_model(family)
    refused = [lambda: small(name).attach(model)]
    if name != "spottune":  # its cost is arithmetic on any shape
        refused.append(lambda: small(name).cost(ModelShape.from_config(model.config.to_dict())))
    for attempt in refused:
        with pytest.raises(PlanError) as caught:
            attempt()
        assert caught.value.code == "E-METHOD-FAMILY"
        assert caught.value.fix
    assert not hasattr(model, "keeptune")


@every
def test_identity_at_the_start_cost_and_what_trains(family, name):
    model, method = tiny_model(family), small(name)
    before = outcome(model, family)
    method.attach(model)
    assert torch.equal(outcome(model, family), before) == method.identity_at_start
    cost = method.cost(ModelShape.from_config(model.config.to_dict()))
    assert cost.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    outcome(model, family).square().sum().backward()
    assert all(p.grad is not None for key, p in model.named_parameters() if key.startswith("keeptune."))


@every_detachable
def test_taking_it_off_leaves_the_base_bitwise_and_no_trace(family, name):
    model = tiny_model(family)
    before, modules = outcome(model, family), dict(model.named_modules())
    shaken(model, small(name))
    assert not torch.equal(outcome(model, family), before)
    with off(model):
        assert torch.equal(outcome(model, family), before)
    detach(model, "one")
    assert torch.equal(outcome(model, family), before)
    assert dict(model.named_modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@every_detachable
def test_a_saved_adapter_gives_the_same_outputs_on_another_copy(family, name, tmp_path):
    model = shaken(tiny_model(family), small(name))
    save_adapter(model, "one", tmp_path)
    fresh = tiny_model(family)
    load_adapter(fresh, tmp_path, "again", trainable=True)
    assert torch.equal(outcome(fresh, family), outcome(model, family))
    outcome(fresh, family).square().sum().backward()
    assert all(p.grad is not None for p in fresh.keeptune.parameters())


CHILD = """
import json, sys, torch
from safetensors.torch import save_file
from keeptune.methods import load_adapter
from keeptune.models.auto_class import auto_class
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar
from tests.contracts.test_families import outcome
folder = sys.argv[1]
torch.set_num_threads(1)
disable_progress_bar()

def opened(path):
    built = auto_class(AutoConfig.from_pretrained(path).to_dict())
    return built.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()

found = {}
for family, name, whole in json.loads(sys.argv[2]):
    model = opened(f"{folder}/{family}/{name if whole else 'base'}")
    if not whole:
        load_adapter(model, f"{folder}/{family}/{name}")
    found[f"{family} {name}"] = outcome(model, family).detach().contiguous()
save_file(found, f"{folder}/found.safetensors")
"""


@pytest.mark.parametrize("families", [QUICK, pytest.param(FAMILIES, marks=pytest.mark.slow)])
def test_what_was_saved_gives_the_same_outputs_in_a_fresh_process(tmp_path, families):
    expected, asked = {}, []
    for family, name in (case.values for case in cases(families)):
        folder, whole = tmp_path / family, Method.find(name).trains_base
        if not folder.exists():
            tiny_model(family).save_pretrained(folder / "base")
        model = shaken(tiny_model(family), small(name))
        if whole:
            model.save_pretrained(folder / name, state_dict=base_state_dict(model))
        else:
            save_adapter(model, "one", folder / name)
        asked.append((family, name, whole))
        expected[f"{family} {name}"] = outcome(model, family).detach()
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(tmp_path), json.dumps(asked)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    found = load_file(tmp_path / "found.safetensors")
    assert found.keys() == expected.keys()
    assert [key for key, outputs in expected.items() if not torch.equal(found[key], outputs)] == []


def merges(model, method):
    """Whether it folds: biases that are new need a key in the config, which among these only Llama's has for all."""
    paths = anatomy_of(model).linear_paths()
    biased = all(model.get_submodule(path).bias is not None for path in paths)
    return method.mergeable and (method.name != "bitfit" or biased)


@every
def test_merging_changes_no_output_or_is_refused(family, name):
    model, method = shaken(tiny_model(family).double(), small(name)), small(name)
    before = outcome(model, family)
    if not merges(model, method):
        with pytest.raises(PlanError) as caught:
            method.merge(model, "one")
        assert caught.value.code == "E-ADAPTER-MERGE"
        assert torch.equal(outcome(model, family), before)
        return
    method.merge(model, "one")
    assert_close(outcome(model, family), before, rtol=1e-4, atol=1e-4)
    merged = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(PlanError, match="no adapter is called 'one'"):
        method.merge(model, "one")
    assert all(torch.equal(value, merged[key]) for key, value in model.state_dict().items())


def texts(lengths=(4, 7, 2), seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]


@every_reader
def test_padding_changes_no_output_of_the_text(family, name):
    """Behind the text, and in decoders before it, with the positions that transformers' own generation gives."""
    model, rows_ = shaken(double(family), small(name)), texts()
    width = max(map(len, rows_))
    answers = {"decoder_input_ids": torch.tensor([[3, 4, 5]])} if family in SEQ2SEQ else {}
    for side in ("left", "right") if family in DECODERS else ("right",):
        ids, mask = (torch.zeros(len(rows_), width, dtype=torch.long) for _ in range(2))
        for number, text in enumerate(rows_):
            place = slice(width - len(text), width) if side == "left" else slice(0, len(text))
            ids[number, place], mask[number, place] = text, 1
        inputs = {key: value.expand(len(rows_), -1) for key, value in answers.items()}
        if side == "left":
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        together = model(input_ids=ids, attention_mask=mask, **inputs)[0]
        for number, text in enumerate(rows_):
            alone = model(input_ids=text[None], **answers)[0][0]
            chosen = together[number] if family in SEQ2SEQ else together[number][mask[number].bool()]
            assert_close(chosen, alone, **CLOSE)


@every_writer
def test_cached_batched_generation_is_one_by_one_generation_without_a_cache(family, name):
    model = shaken(double(family), small(name))
    prompts = [text.tolist() for text in texts((3, 7, 1, 5))]
    answers = generate(model, PadZero(), prompts, max_new_tokens=6, stop_ids={2})
    alone = written_alone if family in SEQ2SEQ else greedy
    assert answers == [alone(model, prompt, 6, stop=2) for prompt in prompts]


def written_alone(model, prompt, limit, stop):
    """Greedy decoding of an encoder-decoder: both texts again for every token."""
    written, start = [], model.config.decoder_start_token_id
    for _ in range(limit):
        decoder = torch.tensor([[start, *written]])
        logits = model(torch.tensor([prompt]), decoder_input_ids=decoder, use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token == stop:
            break
        written.append(token)
    return written


@every
def test_on_a_4_bit_base_it_works_and_comes_off_or_refuses_by_name(family, name):
    model, method = tiny_model(family), small(name)
    put_into_4_bits(model)
    before = outcome(model, family)
    if not method.fits_4bit:
        with pytest.raises(PlanError, match=name) as caught:
            method.attach(model)
        assert caught.value.code == "E-METHOD-QUANTISED"
        return
    adapted = outcome(shaken(model, method), family)
    assert not torch.equal(adapted, before)
    outcome(model, family).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.keeptune.parameters())
    with off(model):
        assert torch.equal(outcome(model, family), before)
    if merges(model, method):
        merged = copy.deepcopy(model)
        method.merge(merged, "one")
        assert quantization_of(merged) is None
        assert_close(outcome(merged, family), adapted, rtol=1e-3, atol=1e-3)


@every_detachable
def test_rows_with_different_adapters_give_what_each_gives_alone(family, name):
    model = shaken(double(family), small(name), "ana")
    shaken(model, LoRA(rank=2, targets=["v", "o", "down"] if family == "deberta-v2" else "all"), "bo", seed=2)
    stacks = ["ana", "bo", None, ("bo", "ana")]
    wide = {
        key: value.double() if value.is_floating_point() else value for key, value in inputs_of(family, batch=4).items()
    }
    alone = []
    for row, stack in enumerate(stacks):
        with active(model, stack):
            output = model(**{key: value[row : row + 1] for key, value in wide.items()})
            alone.append(output.logits[0] if "logits" in output else output.last_hidden_state[0])
    with rows(model, stacks):
        if family == "deberta-v2" and name in DISTANCES:
            with pytest.raises(PlanError) as caught:
                outcome(model, family, batch=4)
            assert caught.value.code == "E-ROWS-FAMILY"
            return
        together = outcome(model, family, batch=4)
    assert_close(together, torch.stack(alone), **CLOSE)


@every
def test_checkpointing_leaves_the_gradients_as_they_are(family, name):
    found = []
    for checkpointing in (False, True):
        model = shaken(tiny_model(family).double(), small(name))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(3)
        outcome(model, family).square().sum().backward()
        found.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        assert_close(gradient, found[1][key], rtol=1e-4, atol=1e-5)
