"""Tiny models with adapters that matter, for the engine's tests."""

from __future__ import annotations

import torch

from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
STACKS = ["a", "b", None, ("b", "l", "a"), "l"]
LENGTHS = [5, 3, 6, 4, 1]


def adapted(family="llama", **changes):
    """A model with the prompts `a` (4 virtual tokens) and `b` (2), and the LoRA `l`."""
    from keeptune.methods import LoRA, Prompt

    model = tiny_model(family, **changes)
    Prompt(length=4).attach(model, "a")
    Prompt(length=2).attach(model, "b")
    LoRA(rank=3).attach(model, "l")
    return moved(model)


def moved(model):
    """The model, the parameters of its adapters moved away from where they start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def texts(lengths=LENGTHS, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]


def padded(rows, side):
    """`input_ids` and `attention_mask`."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    return ids, mask


def virtual(model, name):
    """The virtual tokens of a prompt, as the parameter that they are."""
    return next(model.keeptune.adapter(name).parameters())


def alone(model, row, stack):
    """Logits of one row, its virtual tokens written out by hand before its embedded text; LoRA on by itself."""
    from keeptune.engine.rows import active

    stack = (stack,) if isinstance(stack, str) else stack or ()
    prompts = [name for name in stack if name in "ab"]
    embedding = model.get_input_embeddings()
    embedded = torch.cat([*[virtual(model, name) for name in prompts], embedding(row)])[None]
    with active(model, [name for name in stack if name == "l"]):
        return model(inputs_embeds=embedded).logits[0, -len(row) :]
