"""A GPU for tests on a machine without one: tensors that say they lie on `cuda:0`, and mix with no others.

Their numbers lie in the processor's memory, where torch computes with them. What they test is where things lie: that
what is made for a GPU is made on it, that nothing goes there or comes back unasked, and which branch of the code runs.
As on a GPU, a processor's tensor beside them is an error unless it is a single number that torch takes as such.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.attention import varlen
from torch.utils import _device
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
# A GPU's tensor takes indices from a processor; copies go both ways.
MIXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
COPIES = {aten.copy_.default}
# Whoever asks for a number, or for how many there are, waits for all that the GPU has still to do.
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
waits: list[str] = []
"""What was waited for since somebody emptied this list."""


class OnGPU(torch.Tensor):
    """A tensor that says it lies on the GPU; `held` has its numbers."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGPU:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="cpu",
        )
        made.held = held.detach()
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self, **_: Any) -> str:
        return f"on cuda:0: {self.held}"

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a tensor of a GPU has no array: copy it to the processor first")

    def tolist(self) -> Any:
        waits.append("tolist")
        return self.held.tolist()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def storage(self) -> Any:
        return self.held.storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def new_tensor(self, *given: Any, **named: Any) -> OnGPU:
        return OnGPU(self.held.new_tensor(*given, **named))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given, _ = tree_flatten((args, kwargs))
        if function not in COPIES:
            for number, x in enumerate(given):
                stray = isinstance(x, torch.Tensor) and not isinstance(x, OnGPU) and x.dim()
                if stray and not (function in MIXED and number > 0 and not x.is_floating_point()):
                    raise RuntimeError(f"{function}: tensors on two devices, cuda:0 and cpu {tuple(x.shape)}")
        masks = function in MIXED and any(x.dtype == torch.bool for x in given[1:] if isinstance(x, torch.Tensor))
        if function in WAITS or masks:
            waits.append(str(function))
        # Below Python, where autograd makes tensors like others, torch believes that these lie on a processor.
        found = function(*tree_map(bare, args), **tree_map(bare, kwargs))
        if function._schema.is_mutable:
            return _same(args, kwargs, found)
        return tree_map(on_gpu, found)


def _same(args: Any, kwargs: Any, found: Any) -> Any:
    """What an operator gives that writes into its arguments: the arguments themselves."""
    of_held = {id(x.held): x for x in tree_flatten((args, kwargs))[0] if isinstance(x, OnGPU)}
    return tree_map(lambda x: of_held.get(id(x), on_gpu(x)) if isinstance(x, torch.Tensor) else x, found)


def bare(x: Any) -> Any:
    """The processor's tensor of the same memory."""
    return x.held if isinstance(x, OnGPU) else x


def on_gpu(x: Any) -> Any:
    """The GPU's tensor of the same memory."""
    return OnGPU(x) if isinstance(x, torch.Tensor) and not isinstance(x, OnGPU) else x


def wants(device: Any) -> str | None:
    """`cuda` or `cpu` where something names a device."""
    if isinstance(device, str) and device.split(":")[0] in ("cuda", "cpu"):
        return device.split(":")[0]
    return device.type if isinstance(device, torch.device) else None


def _pad_sequence(rows: Any, batch_first: bool = False, padding_value: float = 0.0) -> torch.Tensor:
    """Torch makes what it pads in C++, beside the first row."""
    held = PAD_SEQUENCE([bare(row) for row in rows], batch_first, padding_value)
    return OnGPU(held) if isinstance(rows[0], OnGPU) else held


PAD_SEQUENCE = nn.utils.rnn.pad_sequence
MAKERS = "tensor as_tensor empty zeros ones full arange linspace rand randn randint randperm eye".split()


def _making(function: Any) -> Any:
    """A maker of tensors that makes them on the GPU where it is asked to; torch without CUDA would refuse."""

    def make(*args: Any, **kwargs: Any) -> Any:
        if wants(kwargs.get("device")) != "cuda":
            return function(*args, **kwargs)
        return OnGPU(function(*tree_map(bare, args), **{**kwargs, "device": torch.device("cpu")}))

    return make


def _moved(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to`, between the two."""
    wanted, rest = wants(kwargs.pop("device", None)), []
    kwargs.pop("non_blocking", None)
    for each in args:
        if isinstance(each, torch.Tensor):
            wanted = "cuda" if isinstance(each, OnGPU) else "cpu"
            rest.append(each.dtype)
        elif wants(each):
            wanted = wants(each)
        else:
            rest.append(each)
    if wanted == "cuda" and not isinstance(x, OnGPU):
        x = _ToGPU.apply(x)
    elif wanted == "cpu" and isinstance(x, OnGPU):
        waits.append("to the processor")
        x = _FromGPU.apply(x)
    return TO(x, *rest, **kwargs) if rest or kwargs else x


TO = torch.Tensor.to


class _ToGPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return OnGPU(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return bare(gradient)


class _FromGPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.held.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return on_gpu(gradient)


def place(model: nn.Module) -> nn.Module:
    """Moves a model's parameters and buffers to the GPU; what is tied stays tied."""
    moved: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or isinstance(parameter, OnGPU):
                continue
            if id(parameter) not in moved:
                made = on_gpu(parameter.detach().clone()).requires_grad_(parameter.requires_grad)
                made._is_param = True
                moved[id(parameter)] = made
            module._parameters[name] = moved[id(parameter)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else on_gpu(buffer.detach().clone())
    return model


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """In place of FlashAttention's kernel for rows of any length, which no processor has: a row at a time."""
    for x in (query, key, value):
        assert isinstance(x, OnGPU)
        assert x.dtype in (torch.bfloat16, torch.float16)
    assert cu_seq_q.dtype == torch.int32
    assert isinstance(cu_seq_q, OnGPU)
    assert enable_gqa == (key.shape[1] != query.shape[1])
    parts = []
    rows = zip(itertools.pairwise(cu_seq_q.tolist()), itertools.pairwise(cu_seq_k.tolist()), strict=True)
    for (start, end), (first, last) in rows:
        assert end - start <= max_q
        assert last - first <= max_k
        q = query[start:end].transpose(0, 1).float()
        k, v = (x[first:last].transpose(0, 1).float() for x in (key, value))
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=0) for x in (k, v))
        # As FlashAttention 2 has it, the last query belongs to the last key.
        places = torch.arange(end - start, device=GPU) + (last - first) - (end - start)
        behind = places[:, None] - torch.arange(last - first, device=GPU)
        unseen = (behind < 0) | (behind > window_size[0]) if window_size[0] >= 0 else behind < 0
        scores = q @ k.transpose(1, 2) * (query.shape[2] ** -0.5 if scale is None else scale)
        found = scores.masked_fill(unseen, -torch.inf).softmax(-1) @ v
        parts.append(found.transpose(0, 1).to(query.dtype))
    return torch.cat(parts)


@contextlib.contextmanager
def pretend_gpu() -> Iterator[None]:
    """Inside it, this machine has a GPU of Hopper's kind."""
    module_to = nn.Module.to

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        devices = [wants(each) for each in (*args, kwargs.get("device")) if wants(each)]
        rest = [each for each in args if not wants(each)]
        kwargs = {key: value for key, value in kwargs.items() if key != "device"}
        if rest or kwargs:
            module_to(self, *rest, **kwargs)
        return place(self) if devices == ["cuda"] else self

    said = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: (9, 0),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_rng_state_all": lambda states: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
        "set_device": lambda device: None,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "mem_get_info": lambda device=None: (80 * 2**30, 80 * 2**30),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 2**30,
        "reset_peak_memory_stats": lambda device=None: None,
        "get_device_name": lambda device=None: "a GPU that is none",
    }
    # Torch collects once the makers that `with torch.device(...)` speaks to: they have to be its own.
    _device._device_constructors()
    with contextlib.ExitStack() as stack:
        for name, function in said.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(nn.Module, "to", to))
        stack.enter_context(mock.patch.object(nn.utils.rnn, "pad_sequence", _pad_sequence))
        stack.enter_context(mock.patch.object(varlen, "varlen_attn", varlen_attn))
        stack.enter_context(mock.patch.object(torch.Tensor, "to", _moved))
        stack.enter_context(mock.patch.object(torch.Tensor, "cpu", lambda x: _moved(x, "cpu")))
        stack.enter_context(mock.patch.object(torch.Tensor, "cuda", lambda x, *_: _moved(x, "cuda")))
        for name in MAKERS:
            stack.enter_context(mock.patch.object(torch, name, _making(getattr(torch, name))))
        yield
