"""Float32 masters of trainable parameters.

A bfloat16 weight has 8 bits of precision: an update smaller than 1/256 of it rounds to nothing, and a fine-tuning rate
of 1e-5 makes only such updates. So the optimiser works on float32 masters; a parameter that is narrower computes with
the rounded copy, and its gradients are summed over micro-batches in float32. A float32 parameter is its own master.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from keeptune.engine.book import book_of


class Masters:
    """The trainable parameters of a model, by name, with a float32 master for each.

    Attributes:
        named: (name, master) in the order of the model.
        memory: (name, buffer) of the adapters: what their methods remember from step to step.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.named: list[tuple[str, nn.Parameter]] = []
        self._narrow: list[tuple[nn.Parameter, nn.Parameter]] = []
        for name, parameter in trainable:
            master = parameter
            if torch.finfo(parameter.dtype).bits < 32:
                master = nn.Parameter(parameter.detach().float())
                self._narrow.append((parameter, master))
            self.named.append((name, master))
        book = book_of(model)
        kept = set() if book is None else book.state_dict().keys()
        self.memory = [(name, b) for name, b in model.named_buffers() if name.removeprefix("keeptune.") in kept]

    @property
    def kept(self) -> list[tuple[str, Tensor]]:
        """What a commit holds."""
        return [*self.named, *self.memory]

    def __len__(self) -> int:
        return sum(master.numel() for _, master in self.named)

    @property
    def gradients(self) -> list[Tensor]:
        """Those that exist, in float32."""
        return [master.grad for _, master in self.named if master.grad is not None]

    def collect(self) -> None:
        """After a backward pass: adds the gradients of narrow parameters to those of their masters."""
        for parameter, master in self._narrow:
            if parameter.grad is not None:
                wide = parameter.grad.float()
                master.grad = wide if master.grad is None else master.grad.add_(wide)
                parameter.grad = None

    def drop_gradients(self) -> None:
        """Without a gradient an optimiser leaves a parameter, its moments and its decay alone."""
        for parameter, master in self._narrow:
            parameter.grad = master.grad = None
        for _, master in self.named:
            master.grad = None

    @contextmanager
    def unremembered(self) -> Iterator[None]:
        """Inside, a pass may run that is no step of training: what methods remember is put back."""
        before = [buffer.clone() for _, buffer in self.memory]
        yield
        for (_, buffer), value in zip(self.memory, before, strict=True):
            buffer.copy_(value)

    @torch.no_grad()
    def publish(self) -> None:
        """After an update: narrow parameters become the rounded masters."""
        for parameter, master in self._narrow:
            parameter.copy_(master)

    @torch.no_grad()
    def finite(self) -> bool:
        """Whether every master is."""
        return all(bool(torch.isfinite(master).all()) for _, master in self.named)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes over what a commit holds; names and shapes must be the same ones."""
        own: dict[str, Tensor] = {**dict(self.named), **dict(self.memory)}
        assert own.keys() == tensors.keys(), "the commit holds other parameters than this model trains"
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
        self.publish()
