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
from keeptune.engine.fused.attending import attended, turning
from keeptune.engine.fused.linear_group import LinearMap, linear_group
from keeptune.engine.fused.prologue import Prologue, RMSNorm, Same, SwiGLU, computed
from keeptune.engine.fused.readers import Readers, readers_of
from keeptune.engine.fused.rotation import rotated
from keeptune.engine.fused.serving import Served, served
from keeptune.engine.learning import learns
from keeptune.engine.segments import Segments


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
        attending, feeding, by = block.self_attn, block.mlp, self.served
        norm = _norm(block.input_layernorm)
        query, key, value, stream = _maps(by, norm, [stream], f"{path}.self_attn", attending, "qkv", carries=True)
        heads = self._attend(attending, query, key, value)
        if readers is not None:
            heads, stream, by = readers.of(heads), readers.of(stream), readers.served
        (stream,) = _maps(by, Same(), [heads], f"{path}.self_attn", attending, "o", onto=stream)
        norm, gated = _norm(block.post_attention_layernorm), SwiGLU(learns=learns())
        gate, up, stream = _maps(by, norm, [stream], f"{path}.mlp", feeding, ("gate", "up"), carries=True)
        (stream,) = _maps(by, gated, [gate, up], f"{path}.mlp", feeding, ("down",), onto=stream)
        return stream

    def _attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(T, H K) from flat queries, keys and values."""
        width, window = module.head_dim, self._window(module)
        if hasattr(module, "q_norm"):
            query, key = query.view(len(query), -1, width), key.view(len(key), -1, width)
            query, key = computed(_norm(module.q_norm), query), computed(_norm(module.k_norm), key)
        dropout = module.attention_dropout if module.training else 0.0
        if dropout == 0.0 and (window is None or self.packed.longest <= window):
            by = turning((query, key, value), width, self.packed, self.cos, self.sin, module.scaling)
            if by is not None:
                return attended(query, key, value, by)
        query, key, value = (states.view(len(states), -1, width) for states in (query, key, value))
        query, key = rotated(query, self.cos, self.sin), rotated(key, self.cos, self.sin)
        query, key, value = (states.transpose(0, 1)[None] for states in (query, key, value))
        output, _ = attention(
            module, query, key, value, self.packed, scaling=module.scaling, dropout=dropout, sliding_window=window
        )
        return output.squeeze(0).flatten(1)

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
    paths = [f"{sublayer}.{role}_proj" for role in roles]
    modules: list[Any] = [getattr(parent, f"{role}_proj") for role in roles]
    updates = [by.updates(path) for path in paths]
    if None not in updates:
        pairs = zip(modules, updates, strict=True)
        maps = [LinearMap(map_.weight, map_.bias, own or ()) for map_, own in pairs]
        return linear_group(prologue, inputs, maps, onto=onto, carries=carries)
    x, outputs = computed(prologue, *inputs), []
    for path, module in zip(paths, modules, strict=True):
        given = by.given(path, x)
        (plain,) = linear_group(Same(), [given], [LinearMap(module.weight, module.bias)])
        outputs.append(by.returned(path, given, plain))
    if onto is not None:
        outputs[0] = onto + outputs[0]
    return [*outputs, inputs[0]] if carries else outputs


def _norm(module: Any) -> RMSNorm:
    return RMSNorm(module.weight, module.variance_epsilon, learns=learns())
