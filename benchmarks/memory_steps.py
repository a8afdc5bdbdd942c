"""Training steps on a random model, as the train stage takes them, and what the process held meanwhile."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from keeptune.core.usage import measured
from keeptune.data.encode import Encoded
from keeptune.losses import Loss
from keeptune.methods import Method
from keeptune.models.quantize import put_into_4_bits
from keeptune.stages import _training as _everything_that_training_imports  # noqa: F401
from keeptune.stages._layers_twice import compute_layers_twice
from keeptune.stages._masters import Masters
from keeptune.stages._reference import Reference
from keeptune.stages._settings import Memory
from keeptune.stages._step import Objective
from keeptune.stages.optimizers import Optimizer

if TYPE_CHECKING:
    from benchmarks.memory_model import Combination


class Steps:
    """A model, a method on it, and the objective and optimiser of a train stage."""

    def __init__(self, config: dict[str, Any], combination: Combination, tokens: int | None = None) -> None:
        self.rows = made_rows(config["vocab_size"], tokens or combination.tokens, combination.row)
        self.optimizer_spec = Optimizer.find(combination.optimizer)(lr=1e-4)
        model = random_model(config, combination.dtype)
        if combination.quantize:
            put_into_4_bits(model, combination.quantize)
        method = Method.model_validate(combination.method)
        reference = None
        if combination.kl:
            copied = not method.detachable
            other = random_model(config, combination.dtype).requires_grad_(False) if copied else model
            reference = Reference(other, {"task": ()}, copied=copied)
        method.attach(model, "one")
        if combination.checkpointing:
            compute_layers_twice(model, Memory(gradient_checkpointing=True))
        losses = [Loss.find(name)() for name in ["next_token", *(["kl_to_base"] if combination.kl else [])]]
        self.objective = Objective(
            model=model,
            masters=Masters(model),
            losses=losses,
            stacks={"task": () if method.trains_base else ("one",)},
            reference=reference,
            micro_batch_tokens=combination.micro or 10**7,
        )
        self.optimizer = self.optimizer_spec.build(self.objective.masters.named)

    def take(self, count: int) -> int:
        """Takes so many steps; the peak of resident memory on the way, in bytes."""
        with measured() as usage:
            for _ in range(count):
                self._step()
        return usage.peak_bytes

    def in_use(self) -> int:
        """The most bytes of tensors that one more step has at a time, beyond those that stay."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
            self._step()
        return _most_at_once(recorded.profiler.kineto_results.events())

    def _step(self) -> None:
        masters = self.objective.masters
        result = self.objective.backward(self.rows)
        torch.nn.utils.clip_grads_with_norm_([master for _, master in masters.named], 1.0, torch.tensor(result.norm))
        self.optimizer.step()
        masters.publish()
        masters.drop_gradients()


def _most_at_once(events: Any) -> int:
    """The peak of the running sum of what was allocated and freed."""
    now = most = 0
    for event in events:
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def random_model(config: dict[str, Any], dtype: str) -> PreTrainedModel:
    """A model of that shape with random weights, its dropout off, ready for training."""
    settings = {key: value for key, value in config.items() if key != "model_type"}
    torch.manual_seed(0)
    made = AutoConfig.for_model(config["model_type"], **settings)
    model = AutoModelForCausalLM.from_config(made, dtype=getattr(torch, dtype))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    return model


def made_rows(vocabulary: int, tokens: int, length: int) -> list[Encoded]:
    """Rows of one length, every position learned."""
    draw = random.Random(0)
    rows = range(tokens // length)
    texts = [tuple(draw.randrange(4, vocabulary) for _ in range(length)) for _ in rows]
    return [Encoded(str(number), "task", text, (True,) * length) for number, text in zip(rows, texts, strict=True)]
