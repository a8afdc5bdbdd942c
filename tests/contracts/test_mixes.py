"""Every method that comes off, each serving a row of its own in one batch, beside the base and a stack of three."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.engine.generation import generate
from keeptune.engine.rows import active, rows
from keeptune.models.load import load
from tests.contracts.test_methods import CLOSE, DETACHABLE, gradients, padded, precise, small
from tests.tiny_models import VOCABULARY

STACKS = [*DETACHABLE, None, ("lora", "prefix", "bottleneck")]


def texts(vocabulary, longest, seed=3):
    """One text for each row, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest, (len(STACKS),), generator=generator).tolist()
    return [torch.randint(3, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def carrying(model, spread):
    """The model with every method under its own name, moved from its start."""
    generator = torch.Generator().manual_seed(1)
    for name in DETACHABLE:
        small(name).attach(model, name)
        with torch.no_grad():
            for parameter in model.keeptune.adapter(name).parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model


@pytest.fixture(scope="module")
def pocket():
    """The embedded model in float32, its real weights."""
    loaded = load("pocket", dtype="float32", device="cpu")
    carrying(loaded.model, 0.02)
    return loaded


def test_on_real_weights_in_float32_each_row_is_what_it_is_alone_to_1e_5(pocket):
    """Left padding; logits go up to about 15, and the difference is 1e-5 of them and 1e-5 more at most."""
    model, asked = pocket.model, texts(4000, 30)
    ids, mask = padded(asked)
    alone = []
    with torch.no_grad():
        for stack, text in zip(STACKS, asked, strict=True):
            with active(model, stack):
                alone.append(model(torch.tensor([text])).logits[0])
        with rows(model, STACKS):
            together = model(ids, attention_mask=mask).logits
    for stack, found, real, expected in zip(STACKS, together, mask.bool(), alone, strict=True):
        assert_close(found[real], expected, **CLOSE, msg=str(stack))


def test_each_row_writes_what_it_would_write_alone(pocket):
    asked = texts(4000, 12, seed=4)
    limits = {"max_new_tokens": 5, "stop_ids": set()}
    together = generate(pocket.model, pocket.tokenizer, asked, rows=STACKS, **limits)
    for stack, text, found in zip(STACKS, asked, together, strict=True):
        assert found == generate(pocket.model, pocket.tokenizer, [text], rows=[stack], **limits)[0], stack
    assert len({tuple(answer) for answer in together}) > len(STACKS) / 2


def test_beams_of_each_row_are_those_that_it_finds_alone():
    model, asked = carrying(precise(), 0.3), texts(VOCABULARY, 8)
    search = {"num_beams": 3, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    ids, mask = padded(asked)
    with rows(model, STACKS, repeat=3):
        together = model.generate(ids, attention_mask=mask, **search)[:, -4:]
    for stack, text, found in zip(STACKS, asked, together, strict=True):
        with active(model, stack):
            assert torch.equal(found, model.generate(torch.tensor([text]), **search)[0, -4:]), stack
    assert len({tuple(beam.tolist()) for beam in together}) > len(STACKS) / 2


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_all_rows_at_once_gives_each_method_the_gradient_of_its_own_row(checkpointing):
    """With layers computed twice too. The adapters are in evaluation: no noise in decisions, no dropout."""
    asked, found = texts(VOCABULARY, 8), []
    for together in (True, False):
        model = carrying(precise(), 0.3)
        if checkpointing and together:
            model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.keeptune.eval()
        if together:
            ids, mask = padded(asked)
            with rows(model, STACKS):
                logits = model(ids, attention_mask=mask, use_cache=False).logits
            logits[mask.bool()].square().sum().backward()
        else:
            for stack, text in zip(STACKS, asked, strict=True):
                if stack is not None:
                    with active(model, stack):
                        model(torch.tensor([text]), use_cache=False).logits.square().sum().backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        assert_close(gradient, found[1][key], rtol=1e-4, atol=1e-4, msg=key)
    untouched = [name for name in DETACHABLE if not any(f"-{name}." in key for key in found[0])]
    assert untouched == []
