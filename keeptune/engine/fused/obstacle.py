"""What makes a pass unfit for the fused body, in words; such a pass runs the model's own modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from keeptune.engine.book import book_of
from keeptune.engine.fused.serving import serving_slots
from keeptune.engine.places import InputSlot, OutputSlot

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
# Modules of a decoder that are not the family's own.
PLAIN = ("torch.nn.modules.linear", "torch.nn.modules.sparse", "torch.nn.modules.container", "transformers.activations")


def obstacle(model: PreTrainedModel, tokens: int) -> str | None:
    """The first reason why the packed pass that is running cannot be fused; None when it can."""
    return next(_obstacles(model, tokens), None)


def _obstacles(model: PreTrainedModel, tokens: int) -> Iterator[str]:
    config, body = model.config, model.base_model
    if config.model_type not in FAMILIES:
        yield f"the family {config.model_type}"
        return
    if config.hidden_act != "silu":
        yield f"the activation {config.hidden_act}"
    if torch.is_autocast_enabled(model.device.type):
        yield "autocast"
    modules = list(body.named_modules())
    parameters = [weight for _, module in modules for weight in module._parameters.values() if weight is not None]
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
        yield "training of the base's own weights"
    if len({(parameter.dtype, parameter.device) for parameter in parameters}) > 1:
        yield "weights of several dtypes or on several devices"
    yield from _foreign_modules(modules, config.model_type)
    yield from _foreign_hooks(model, modules, tokens)


def _foreign_modules(modules: Sequence[tuple[str, nn.Module]], family: str) -> Iterator[str]:
    """Modules that are not what the family is made of, or whose forward was replaced."""
    own = (f"transformers.models.{family}.modeling_{family}", *PLAIN)
    for path, module in modules:
        if type(module).__module__ not in own or "forward" in vars(module):
            yield f"another module at {path or 'the body'}"


def _foreign_hooks(model: PreTrainedModel, modules: Sequence[tuple[str, nn.Module]], tokens: int) -> Iterator[str]:
    """Deltas elsewhere than at linear maps, and hooks that are not the adapters'."""
    book, body = book_of(model), model.base_model
    known = set()
    if book is not None:
        known = {
            *(hook.id for hook in book.hooks),
            *(handle.id for slot in book.slots.values() for handle in slot.handles),
        }
    at = {f"{model.base_model_prefix}.{path}": module for path, module in modules}
    for slot, path, _ in serving_slots(model, tokens):
        at_linear = isinstance(at[path] if path in at else model.get_submodule(path), nn.Linear)
        if slot.handles and not (at_linear and isinstance(slot, (InputSlot, OutputSlot))):
            yield f"a delta at {path}"
    # The embedding and the rotary module are called as modules, with their hooks.
    called = (body.embed_tokens, body.rotary_emb)
    for path, module in modules:
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            hooks = {*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks}
            if not hooks <= known and module not in called:
                yield f"a foreign hook at {path or 'the body'}"
