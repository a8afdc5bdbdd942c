"""The adapters that a model carries: by name, in order of attaching, each made of deltas at places.

They live in one module, `model.keeptune`, so that optimisers and safetensors see their parameters; it is there only
while something is attached. The base keeps its module tree and its names, and `detach` leaves it bitwise as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from keeptune.core.errors import PlanError, did_you_mean
from keeptune.engine.adapter import Adapter
from keeptune.engine.decisions import DecisionSlot
from keeptune.engine.encoder_prompt import EncoderPromptSlot
from keeptune.engine.passes import Passes
from keeptune.engine.places import Place, Slot
from keeptune.engine.prompt_rows import NO_VIRTUAL, Surrounding
from keeptune.engine.selection import Selection, Serving, Stack
from keeptune.engine.soft_prompt import Expanded, PromptSlot
from keeptune.engine.template_slot import TemplateSlot
from keeptune.models.families import FAMILIES

if TYPE_CHECKING:
    from keeptune.engine.batch import PackedBatch

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Adapters(nn.Module):
    """All adapters of one model, and who serves the current batch."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.order: list[str] = []
        self.slots: dict[Place, Slot] = {}
        self.base_requires_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        # DeBERTa's maps of queries and keys also project its table of distances, once for the whole batch.
        self.projects_distances = model.config.model_type == "deberta-v2"
        self._chosen: Stack | None = None
        self._default = Serving()
        self._serving: Serving | None = None
        self.passes = Passes(self)
        self.hooks = [body.register_forward_pre_hook(self.passes.before) for body in bodies_of(model)]

    def __contains__(self, name: str) -> bool:
        return name in self.order

    def adapter(self, name: str) -> Adapter:
        """The adapter of that name.

        Raises:
            PlanError: there is none (E-ADAPTER-NAME), with the nearest name.
        """
        if name not in self.order:
            raise unknown_adapter(name, self.order)
        return self._modules[module_name(name)]  # type: ignore[return-value]

    @property
    def adapters(self) -> list[Adapter]:
        """In the order of attaching."""
        return [self.adapter(name) for name in self.order]

    @property
    def active(self) -> Stack:
        """The stack that serves every row outside `rows`: the chosen one, else the last attached adapter."""
        return tuple(self.order[-1:]) if self._chosen is None else self._chosen

    @property
    def serving(self) -> Serving:
        """Who serves which row now."""
        return self._serving or self._default

    def choose(self, stack: Stack | None) -> None:
        """Sets the stack that serves every row; None returns to the last attached adapter."""
        for name in stack or ():
            self.adapter(name)
        self._chosen = stack
        self._default = Serving(every=self.active)

    @contextmanager
    def serve(self, serving: Serving) -> Iterator[None]:
        """Inside, `serving` decides who serves which row."""
        for name in sorted(serving.names):
            self.adapter(name)
        before, self._serving = self._serving, serving
        try:
            yield
        finally:
            self._serving = before

    def room(self, stack: Stack) -> int:
        """Positions that the virtual tokens and prefixes of a stack take beside a text."""
        return sum(placed.delta.room for name in stack for part in self.adapter(name).placed for placed in part)

    def plan(self, shape: torch.Size, device: torch.device) -> list[Selection]:
        """What to apply to a tensor of this leading shape: `[B, T]`, or `[1, T]` inside `segments`."""
        serving, offsets = self.passes.state()
        if offsets is not None:
            return serving.plan(offsets, device)
        batch, width = shape if len(shape) > 1 else (1, shape[0])
        if batch == 1 and self.projects_distances:
            serving = serving.of_all()
        return serving.plan(range(0, batch * width + 1, width), device)

    def expand(self, batch: PackedBatch) -> Expanded | None:
        """The packed batch with the virtual tokens of the soft prompts that serve it; None when there are none."""
        expansions = (slot.expand(batch) for slot in self.slots.values() if isinstance(slot, PromptSlot))
        return next(expansions, None)

    def deciding(self, batch: PackedBatch) -> AbstractContextManager[None]:
        """Inside, the packed batch is served with the gates that policies set for it, if there are policies."""
        decided = (slot.packed(batch) for slot in self.slots.values() if isinstance(slot, DecisionSlot))
        serving = next(decided, None)
        return nullcontext() if serving is None else self.serve(serving)

    @property
    def templates(self) -> TemplateSlot | None:
        """The slot of the templates, if there are any."""
        return next((slot for slot in self.slots.values() if isinstance(slot, TemplateSlot)), None)

    def virtual_tokens(self, count: int) -> list[Surrounding]:
        """The virtual tokens around each of `count` rows of an encoder-decoder's encoder."""
        slots = (slot for slot in self.slots.values() if isinstance(slot, EncoderPromptSlot))
        return next((slot.around(count) for slot in slots), [NO_VIRTUAL] * count)

    def add(self, model: PreTrainedModel, adapter: Adapter) -> None:
        """Installs an adapter; it serves every row from now on."""
        for placed in (placed for part in adapter.placed for placed in part):
            if placed.place not in self.slots:
                self.slots[placed.place] = placed.place.open(model, self)
            placed.delta.to(device_of(model, placed.place.path))
            self.slots[placed.place].entries.setdefault(adapter.name, []).append(placed)
        self.add_module(module_name(adapter.name), adapter.train(model.training))
        self.order.append(adapter.name)
        self.choose(None)

    def close(self, model: PreTrainedModel) -> None:
        """Takes the last traces off, once nothing is attached."""
        for hook in self.hooks:
            hook.remove()
        for body in bodies_of(model):
            self.passes.forget(body)

    def remove(self, name: str) -> None:
        """Takes an adapter off; a place without deltas loses its hooks."""
        for place in [place for place, slot in self.slots.items() if name in slot.entries]:
            del self.slots[place].entries[name]
            if not self.slots[place].entries:
                self.slots.pop(place).close()
        del self._modules[module_name(name)]
        self.order.remove(name)
        rest = None if self._chosen is None else tuple(other for other in self._chosen if other != name)
        self.choose(rest or None)


def bodies_of(model: PreTrainedModel) -> list[nn.Module]:
    """What runs the blocks: the body, or the encoder and the decoder."""
    family = FAMILIES.get(model.config.model_type)
    if family is not None and family.kind == "encoder_decoder":
        return [model.get_encoder(), model.get_decoder()]
    return [model.base_model]


def device_of(model: PreTrainedModel, path: str) -> torch.device:
    """Where a module's parameters are; the model's first ones, where it has none."""
    own = next(model.get_submodule(path).parameters(), None)
    device: torch.device = (next(model.parameters()) if own is None else own).device
    return device


def module_name(name: str) -> str:
    """The submodule of an adapter; prefixed, because `train` or `keys` are fair names for an adapter."""
    return f"adapter-{name}"


def unknown_adapter(name: str, known: Sequence[str]) -> PlanError:
    """The error for a name that nothing is attached under."""
    fix = did_you_mean(name, known) or "Nothing is attached to this model."
    return PlanError(f"no adapter is called '{name}'.", code="E-ADAPTER-NAME", fix=fix)


def book_of(model: PreTrainedModel) -> Adapters | None:
    """The adapters of a model, or None when nothing is attached."""
    book: Adapters | None = model._modules.get("keeptune")
    return book


def require_book(model: PreTrainedModel, name: str) -> Adapters:
    """The adapters of a model that carries `name`.

    Raises:
        PlanError: it does not (E-ADAPTER-NAME).
    """
    book = book_of(model)
    if book is None or name not in book:
        raise unknown_adapter(name, [] if book is None else book.order)
    return book


def check_name(model: PreTrainedModel, name: str) -> None:
    """Refuses a name that is taken, or that cannot name a folder.

    Raises:
        PlanError: E-ADAPTER-NAME.
    """
    book = book_of(model)
    if book is not None and name in book:
        fix = "Use another name, or detach that one first."
        raise PlanError(f"an adapter called '{name}' is attached already.", code="E-ADAPTER-NAME", fix=fix)
    if not NAME.fullmatch(name):
        fix = "Use up to 64 letters, digits, '_' and '-', beginning with a letter or digit."
        raise PlanError(f"'{name}' cannot be the name of an adapter.", code="E-ADAPTER-NAME", fix=fix)


def install(model: PreTrainedModel, adapter: Adapter) -> None:
    """Puts an adapter on a model and freezes whatever is not to be trained."""
    check_name(model, adapter.name)
    book = book_of(model)
    if book is None:
        book = Adapters(model)
        model.add_module("keeptune", book)
    book.add(model, adapter)
    freeze_base(model)


def detach(model: PreTrainedModel, name: str) -> None:
    """Takes an adapter off; without any, the model is the base again, bitwise, with its own `requires_grad`.

    Raises:
        PlanError: no such adapter (E-ADAPTER-NAME); or it trained the base's own weights (E-ADAPTER-DETACH).
    """
    book = require_book(model, name)
    if book.adapter(name).trains_base:
        raise PlanError(
            f"'{name}' trains the base's own weights, so it cannot be taken off.",
            code="E-ADAPTER-DETACH",
            fix="Load the base again; or `merge` it, which keeps the weights as the new base.",
        )
    forget(model, name)


def forget(model: PreTrainedModel, name: str) -> None:
    """Removes an adapter from the book, and the book with the last of them; weights are left as they are."""
    book = require_book(model, name)
    book.remove(name)
    if book.order:
        freeze_base(model)
        return
    book.close(model)
    del model._modules["keeptune"]
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(book.base_requires_grad.get(key, True))  # merging may have added a bias


def freeze_base(model: PreTrainedModel) -> None:
    """The base's parameters require gradients exactly when a trainable adapter says that it trains them."""
    book = book_of(model)
    trainable = [] if book is None else [adapter for adapter in book.adapters if adapter.trainable]
    trained = frozenset().union(*(adapter.trained for adapter in trainable))
    for name, parameter in base_parameters(model):
        parameter.requires_grad_(name in trained and parameter.is_floating_point())


def base_parameters(model: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
    """The named parameters of the base, without those of the adapters."""
    return [(name, p) for name, p in model.named_parameters() if not name.startswith("keeptune.")]


def base_state_dict(model: PreTrainedModel) -> dict[str, Any]:
    """The state dict of the base, without the adapters."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith("keeptune.")}


def activate(model: PreTrainedModel, names: str | Sequence[str] | None) -> None:
    """Sets the stack that serves every row outside `rows`, until the next attach; None = the last attached adapter."""
    stack = (names,) if isinstance(names, str) else None if names is None else tuple(names)
    book = book_of(model)
    if book is not None:
        book.choose(stack)
    elif stack:
        raise unknown_adapter(stack[0], [])
