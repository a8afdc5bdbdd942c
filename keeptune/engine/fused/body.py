"""The decoder of the Llama, Mistral, Qwen 2 and Qwen 3 families over a packed batch.

    h <- h + o(attention(rotate(q(norm h)), rotate(k(norm h)), v(norm h)))
    h <- h + down(silu(gate(norm h)) * up(norm h))

It computes what transformers' modules compute, from their own parameters; where a model is measured and no update acts,
bitwise. From one layer
to the next it keeps the residual stream, queries, keys, values, the output of attention, gate and up; norms and SwiGLU
are computed again. Layers below the lowest trainable delta build no graph, for nothing in them asks for a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from keeptune.engine.attention import attention
from keeptune.engine.fused.attending import attending
from keeptune.engine.fused.halves import AttendingHalf, FeedingHalf
from keeptune.engine.fused.linear_group import Group, LinearMap, group_of, linear_group
from keeptune.engine.fused.prologue import Prologue, RMSNorm, Same, SwiGLU, computed
from keeptune.engine.fused.readers import Readers, readers_of
from keeptune.engine.fused.rotation import rotated
from keeptune.engine.fused.serving import Served, served
from keeptune.engine.kernel_contract import ProcessorKernels
from keeptune.engine.kernels import multiplying
from keeptune.engine.learning import learns
from keeptune.engine.segments import Segments

OPENING, CLOSING = ("gate", "up"), ("down",)
"""The maps of a feed-forward layer."""


class Fused(NamedTuple):
    """Hidden states: (T, D), and (R, D) of the readers, where others did not go on."""

    hidden: Tensor
    read: Tensor | None = None


def fused_hidden(
    model: PreTrainedModel,
    packed: Segments,
    positions: Tensor,
    stream: Tensor,
    *,
    first: int = 0,
    end: int | None = None,
    reads: Tensor | None = None,
) -> Fused:
    """The hidden states behind the final norm, or those that enter a layer; `obstacle` has seen nothing in the way.

    Behind the attention of the last layer no token sees another: there only those go on that somebody reads.

    Args:
        model: of a family that this file knows.
        packed: the rows.
        positions: (T,) position of each token in its row.
        stream: (T, D) what enters the layer `first`; for 0, the embedded tokens.
        first: the layer to begin with.
        end: the layer to stop before, without the final norm; None goes to the end.
        reads: (R,) positions, ascending, on the processor: the only ones whose states are asked for. None: all.

    Returns:
        Of all tokens; where nothing is read, no numbers. And of those that went on alone.
    """
    body = model.base_model
    cos, sin = body.rotary_emb(stream[None], positions[None])
    half = cos.shape[-1] // 2
    angles = (cos[0, :, None, :half], sin[0, :, None, :half])
    decoder = Decoder(served(model, len(stream)), packed, *angles, model.config.model_type)
    prefix, count = model.base_model_prefix, model.config.num_hidden_layers
    readers = None if end is not None or first == count else readers_of(model, packed, stream, reads)
    for index in range(first, count if end is None else end):
        path, block = f"{prefix}.layers.{index}", body.layers[index]
        last = readers if index == count - 1 else None
        if block.gradient_checkpointing and block.training and torch.is_grad_enabled():
            stream = checkpoint(decoder.layer, path, block, stream, last, use_reentrant=False)
        else:
            stream = decoder.layer(path, block, stream, last)
    if end is not None:
        return Fused(stream)
    hidden = computed(_norm(body.norm), stream)
    return Fused(hidden) if readers is None else Fused(readers.back(hidden), hidden[: readers.count])


@dataclass(frozen=True)
class Decoder:
    """One pass.

    Attributes:
        served: what serves the linear maps.
        packed: the rows.
        cos: (T, 1, K / 2), of each pair's angle.
        sin: (T, 1, K / 2).
        family: decides where the sliding window stands.
    """

    served: Served
    packed: Segments
    cos: Tensor
    sin: Tensor
    family: str

    def layer(self, path: str, block: Any, stream: Tensor, readers: Readers | None = None) -> Tensor:
        """The residual stream (T, D) behind a block; of the readers alone, where there are some."""
        first, second = self._halves(path, block, stream, readers)
        if first is not None and second is not None and readers is None:
            with first.own.together():
                return second(*first(stream))
        if first is not None:
            heads, stream = first(stream)
        else:
            norm = _norm(block.input_layernorm)
            maps = self.served, norm, [stream], f"{path}.self_attn", block.self_attn, "qkv"
            query, key, value, stream = _maps(*maps, carries=True)
            heads = self._attend(block.self_attn, query, key, value)
        by = self.served
        if readers is not None:
            heads, stream, by = readers.of(heads), readers.of(stream), readers.served
        if second is not None:
            return second(heads, stream)
        (stream,) = _maps(by, Same(), [heads], f"{path}.self_attn", block.self_attn, "o", onto=stream)
        norm, gated = _norm(block.post_attention_layernorm), SwiGLU(learns=learns())
        gate, up, stream = _maps(by, norm, [stream], f"{path}.mlp", block.mlp, OPENING, carries=True)
        (stream,) = _maps(by, gated, [gate, up], f"{path}.mlp", block.mlp, CLOSING, onto=stream)
        return stream

    def _attend(self, module: Any, *flat: Tensor) -> Tensor:
        """(T, H K) from flat queries, keys and values."""
        query, key, value = (states.view(len(states), -1, module.head_dim) for states in flat)
        if hasattr(module, "q_norm"):
            query, key = computed(_norm(module.q_norm), query), computed(_norm(module.k_norm), key)
        query, key = rotated(query, self.cos, self.sin), rotated(key, self.cos, self.sin)
        query, key, value = (states.transpose(0, 1)[None] for states in (query, key, value))
        output, _ = attention(
            module,
            query,
            key,
            value,
            self.packed,
            scaling=module.scaling,
            dropout=module.attention_dropout if module.training else 0.0,
            sliding_window=self._window(module),
        )
        return output.squeeze(0).flatten(1)

    def _halves(
        self, path: str, block: Any, stream: Tensor, readers: Readers | None
    ) -> tuple[AttendingHalf | None, FeedingHalf | None]:
        """The halves of a layer, each where kernels of a processor train all of it."""
        module, norms = block.self_attn, (block.input_layernorm, block.post_attention_layernorm)
        own = multiplying(stream, *(norm.weight for norm in norms)) if learns() else None
        if own is None:
            return None, None
        by = self.served if readers is None else readers.served
        found = (
            _group(self.served, _norm(norms[0]), 1, f"{path}.self_attn", module, "qkv"),
            _group(by, Same(), 1, f"{path}.self_attn", module, "o"),
            _group(by, _norm(norms[1]), 1, f"{path}.mlp", block.mlp, OPENING),
            _group(by, SwiGLU(learns=True), 2, f"{path}.mlp", block.mlp, CLOSING),
        )
        # The weights of a fused body are of one dtype, and on one device (`obstacle`).
        maps, *behind = (group if group is not None and group.multiplied else None for group in found)
        o, opening, closing = behind
        feeding = FeedingHalf(own, o, opening, closing) if o and opening and closing else None
        return None if maps is None else self._attending(own, module, maps), feeding

    def _attending(self, own: ProcessorKernels, module: Any, maps: Group) -> AttendingHalf | None:
        width, window = module.head_dim, self._window(module)
        whole = window is None or self.packed.longest <= window
        drops = module.training and module.attention_dropout
        weight = maps.maps[0].weight
        if drops or not whole or not own.attends(width) or not self.cos.dtype == self.sin.dtype == weight.dtype:
            return None
        norms = (_norm(module.q_norm), _norm(module.k_norm)) if hasattr(module, "q_norm") else None
        by = attending(own, self.packed, self.cos, self.sin, module.scaling)
        return AttendingHalf(own, maps, norms, by, width)

    def _window(self, module: Any) -> int | None:
        window: int | None = getattr(module, "sliding_window", None)
        return module.config.sliding_window if self.family == "mistral" else window


def _maps(
    by: Served,
    prologue: Prologue,
    inputs: Sequence[Tensor],
    sublayer: str,
    parent: nn.Module,
    roles: Sequence[str],
    *,
    onto: Tensor | None = None,
    carries: bool = False,
) -> Sequence[Tensor]:
    """The maps `<role>_proj` of a sublayer, as `linear_group`: in one function where updates are all there is."""
    maps = _linear_maps(by, sublayer, parent, roles)
    if maps is not None:
        return linear_group(prologue, inputs, maps, onto=onto, carries=carries)
    x, outputs = computed(prologue, *inputs), []
    for role in roles:
        path, module = f"{sublayer}.{role}_proj", getattr(parent, f"{role}_proj")
        given = by.given(path, x)
        (plain,) = linear_group(Same(), [given], [LinearMap(module.weight, module.bias)])
        outputs.append(by.returned(path, given, plain))
    if onto is not None:
        outputs[0] = onto + outputs[0]
    return [*outputs, inputs[0]] if carries else outputs


def _linear_maps(by: Served, sublayer: str, parent: Any, roles: Sequence[str]) -> list[LinearMap] | None:
    """The maps `<role>_proj` with their updates, where updates are all there is."""
    found = []
    for role in roles:
        updates = by.updates(f"{sublayer}.{role}_proj")
        if updates is None:
            return None
        module = getattr(parent, f"{role}_proj")
        found.append(LinearMap(module.weight, module.bias, updates))
    return found


def _group(
    by: Served, prologue: Prologue, inputs: int, sublayer: str, parent: Any, roles: Sequence[str]
) -> Group | None:
    maps = _linear_maps(by, sublayer, parent, roles)
    return None if maps is None else group_of(prologue, inputs, maps, learns=True)


def _norm(module: Any) -> RMSNorm:
    return RMSNorm(module.weight, module.variance_epsilon, learns=learns())
