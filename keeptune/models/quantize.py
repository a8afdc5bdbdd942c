"""NF4: the linear maps of the blocks in 4 bits (Dettmers et al. 2023, arXiv:2305.14314).

A weight matrix is cut, row by row, into blocks of 64. With a = max |w| of a block and the 16 levels l of NF4 (quantiles
of a normal distribution, among them exactly 0),

    code = argmin_i |l_i - w / a|        w ~ a l_code

Double quantisation keeps the a themselves in 8 bits: their mean is taken off, and blocks of 256 share a float32 scale.
Bits per weight: 4 + 8/64 + 32/(64 * 256) = 4.127, which is 0.516 bytes.

Embedding, head, norms and biases keep their dtype. A product makes the matrix wide, uses it, and forgets it; the
backward pass makes it again, so that no wide copy waits there.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from keeptune.core.errors import PlanError
from keeptune.models.anatomy import anatomy_of
from keeptune.models.bitsandbytes_library import bitsandbytes_for

Kind = Literal["nf4"]
KINDS: tuple[str, ...] = get_args(Kind)
BLOCK = 64
HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


class Linear4bit(nn.Module):
    """A frozen linear map whose weights are NF4 codes; it computes in the dtype of its input.

    It is no `nn.Linear`: code that reads `weight` as a matrix must not take it for one, and asks `matrix_of`.

    Attributes:
        weight: two codes per byte, `[in * out / 2, 1]`, int8: T5 casts its states to a weight of any other dtype.
        bias: as it was, `[out]` or None.
        in_features, out_features: widths.
        kind: the class that it stands for: `nn.Linear`, or transformers' `Conv1D`, which stores `[in, out]`.
        state: of bitsandbytes: scales and levels.
    """

    def __init__(self, linear: Any, device: torch.device) -> None:
        super().__init__()
        self.kind = type(linear)
        matrix: Tensor = linear.weight.detach().to(device)
        matrix = matrix.T.contiguous() if self.kind is Conv1D else matrix
        self.out_features, self.in_features = matrix.shape
        packed, self.state = _library().functional.quantize_4bit(
            matrix, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        self.weight = nn.Parameter(packed.view(torch.int8), requires_grad=False)
        bias: Any = linear.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(device), requires_grad=bias.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """`x W^T + b`, `[..., in]` to `[..., out]`."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        output: Tensor = _Product.apply(x, bias, self)  # type: ignore[no-untyped-call]
        return output

    def wide(self) -> Tensor:
        """The matrix that the codes stand for, `[out, in]` in the dtype that it was quantised from."""
        codes = self.weight.detach().view(torch.uint8)
        matrix: Tensor = _library().functional.dequantize_4bit(codes, self.state)
        return matrix

    def widened(self) -> nn.Linear | Conv1D:
        """A stock module with these weights."""
        with torch.device("meta"):
            module: nn.Linear | Conv1D = (
                Conv1D(self.out_features, self.in_features)
                if self.kind is Conv1D
                else nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
            )
        matrix = self.wide()
        matrix = matrix.T.contiguous() if self.kind is Conv1D else matrix
        module.weight = nn.Parameter(matrix, requires_grad=False)
        module.bias = self.bias
        return module

    def stored_bytes(self) -> int:
        """Codes and scales."""
        parts = (self.weight, self.state.absmax, self.state.state2.absmax)
        return sum(part.numel() * part.element_size() for part in parts)

    def _apply(self, fn: Any, recurse: bool = True) -> Linear4bit:
        """The scales follow to another device, and never to another dtype: they belong to the codes."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.state.to(self.weight.device)
        return self

    def extra_repr(self) -> str:
        """As it shows in a printed model."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, nf4"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, linear: Linear4bit) -> Tensor:
        ctx.linear, ctx.shape = linear, x.shape
        return functional.linear(x, linear.wide().to(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Dx = dy W, and db = sum dy."""
        wants_x, wants_bias, _ = ctx.needs_input_grad
        d_x = gradient @ ctx.linear.wide().to(gradient.dtype) if wants_x else None
        d_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0) if wants_bias else None
        return d_x, d_bias, None


def matrix_of(linear: Any) -> Tensor:
    """The matrix of a linear map, `[out, in]`, however the module keeps it."""
    if isinstance(linear, Linear4bit):
        return linear.wide()
    weight: Tensor = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight


def put_into_4_bits(model: PreTrainedModel, kind: str = "nf4", device: torch.device | None = None) -> None:
    """Puts the linear maps of the blocks into 4 bits, in place, one at a time.

    Args:
        model: of a known family, its weights in 16 or 32 bits.
        kind: `nf4`.
        device: where the codes go; unset: where the weights are.

    Raises:
        PlanError: there is no such quantisation (E-MODEL-QUANTIZE).
        MissingDependency: bitsandbytes is not installed.
    """
    check_kind(kind)
    for path in anatomy_of(model).linear_paths():
        linear = model.get_submodule(path)
        narrow = Linear4bit(linear, device or linear.weight.device)
        model.set_submodule(path, narrow.train(linear.training))


def check_kind(kind: str) -> None:
    """Refuses an unknown quantisation, and a known one whose library is missing, before any weight is read.

    Raises:
        PlanError: E-MODEL-QUANTIZE.
        MissingDependency: bitsandbytes is not installed.
    """
    if kind not in KINDS:
        raise PlanError(f"'{kind}' is no quantisation.", code="E-MODEL-QUANTIZE", fix=f"Known: {', '.join(KINDS)}.")
    _library()


def quantization_of(model: nn.Module) -> Kind | None:
    """What the linear maps are kept in; None: in their own dtype."""
    return "nf4" if any(isinstance(module, Linear4bit) for module in model.modules()) else None


def widen(model: PreTrainedModel, originals: PreTrainedModel | None = None) -> None:
    """Makes a stock model of a 4-bit one, in place. Hooks move along, because adapters hang on them.

    Args:
        model: nothing happens to one that is not in 4 bits.
        originals: take its linear maps instead of the same NF4 weights written out in the model's dtype.
    """
    for path, module in list(model.named_modules()):
        if isinstance(module, Linear4bit):
            wide = module.widened() if originals is None else originals.get_submodule(path)
            for hooks in HOOKS:
                setattr(wide, hooks, getattr(module, hooks))
            model.set_submodule(path, wide.train(module.training))


def _library() -> Any:
    return bitsandbytes_for("`quantize: nf4`")
