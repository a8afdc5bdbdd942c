"""Where models are opened: one copy of a base for every checkpoint that shares it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from keeptune.core.checkpoint import AdapterRef, Checkpoint
from keeptune.evaluations import Subject
from keeptune.evaluations._endpoint import Endpoint, is_endpoint

if TYPE_CHECKING:
    from keeptune.models.load import Loaded

Key = tuple[str, str | None, str, str | None]

SMALL = 30_000_000
"""Parameters below which one processor thread is the fastest."""
KEPT = 2
"""Bases held at a time: the one that all is compared with, and one that was trained."""


@dataclass
class Workshop:
    """Opens checkpoints, for training as models of their own, for measurement as shared ones.

    Attributes:
        trusted: a run folder. The stages of a run change the base under its earlier adapters on purpose, so an adapter
            in it is attached although its base has another fingerprint; any other adapter must fit its base.
        force: attach adapters of other bases too.
        device: where models are put; None: a GPU when there is one, else the CPU.
    """

    trusted: Path | None = None
    force: bool = False
    device: str | None = None
    _bases: dict[Key, Loaded] = field(default_factory=dict)
    _files: dict[Key, str] = field(default_factory=dict)
    _served: dict[str, Endpoint] = field(default_factory=dict)
    _attached: dict[int, dict[str, Path]] = field(default_factory=dict)

    def open(self, checkpoint: Checkpoint) -> Loaded:
        """A model of its own, which may be changed, with the checkpoint's adapters attached and frozen."""
        loaded = self._load(checkpoint)
        for ref in checkpoint.adapters:
            self._attach(loaded, ref)
        return loaded

    def shared(self, checkpoint: Checkpoint) -> Loaded:
        """The base of a checkpoint for looking at; the same object until two other bases were asked for."""
        key = _key(checkpoint)
        if key not in self._bases:
            while len(self._bases) >= KEPT:
                self._forget(list(self._bases)[1])
            self._bases[key] = self._load(checkpoint)
        return self._bases[key]

    def subject(self, checkpoint: Checkpoint) -> Subject:
        """The checkpoint as evaluations see it; its adapters are attached to the shared base if they are not yet."""
        if is_endpoint(checkpoint.base):
            return self._served.setdefault(checkpoint.base, Endpoint.at(checkpoint))
        from keeptune.engine.book import detach

        loaded = self.shared(checkpoint)
        attached = self._attached.setdefault(id(loaded.model), {})
        for ref in checkpoint.adapters:
            if attached.get(ref.name) == ref.path:
                continue
            if ref.name in attached:
                detach(loaded.model, ref.name)
            self._attach(loaded, ref)
            attached[ref.name] = ref.path
        key = _key(checkpoint)
        if key not in self._files:
            self._files[key] = Subject.of(loaded, checkpoint).files
        return Subject(loaded.model, loaded.tokenizer, checkpoint.adapters, self._files[key])

    def _attach(self, loaded: Loaded, ref: AdapterRef) -> None:
        from keeptune.methods import load_adapter

        ours = self.trusted is not None and ref.path.is_relative_to(self.trusted)
        load_adapter(loaded.model, ref.path, name=ref.name, force=ours or self.force)

    def _load(self, checkpoint: Checkpoint) -> Loaded:
        from keeptune.models.load import load

        loaded = load(
            checkpoint.base,
            revision=checkpoint.revision,
            dtype=checkpoint.dtype,
            device=self.device,
            quantize=checkpoint.quantize,
        )
        use_threads(loaded)
        return loaded

    def _forget(self, key: Key) -> None:
        self._attached.pop(id(self._bases.pop(key).model), None)


def use_threads(loaded: Loaded) -> None:
    """One processor thread for a small model: its operations are shorter than waking a second thread takes.

    Measured on pocket with two cores: a training step takes 0.55 s with one thread, 0.55 s with two that spin while
    they wait, and 1.0 s with two that sleep.
    """
    import torch

    if loaded.model.num_parameters() < SMALL and loaded.model.device.type == "cpu":
        torch.set_num_threads(1)


def _key(checkpoint: Checkpoint) -> Key:
    return checkpoint.base, checkpoint.revision, checkpoint.dtype, checkpoint.quantize
