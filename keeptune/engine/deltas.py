"""Delta: what an adapter computes at one place; `compositions.py` says how that joins what the model computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from keeptune.engine.selection import Selection


class Factors(NamedTuple):
    """A low-rank update `s B A drop(x)`, `A: [rank, in]`, `B: [out, rank]`; `dropout` is the share of x dropped now."""

    A: Tensor
    B: Tensor
    scale: float
    dropout: float = 0.0


class Delta(nn.Module):
    """A function of a place's input and output, with parameters in float32.

    Its buffers are what it remembers from one step of training to the next; a commit holds them beside the parameters.

    `forward(x, h, selection)` gets the input `x [..., D_in]` and the output `h [..., D_out]` of the place, for the
    tokens that it serves and no others, and returns `dh`, which composes with `h`. It computes in the dtype of `x`;
    the engine casts the result to the dtype of `h`.

    Attributes:
        room: positions that it takes before the text.
    """

    room: int = 0

    def forward(self, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
        """The change, shaped as `h` or broadcastable to it."""
        raise NotImplementedError

    def factors(self) -> Factors | None:
        """What it is when it is nothing but a low-rank update of x; such updates are computed with the map itself."""
        return None

    def kept(self) -> dict[str, Tensor]:
        """What a file keeps of it, by name: its parameters, unless some of them serve training alone."""
        return self.state_dict()

    def fit(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over the sizes of a file's tensors, where training may have changed what the settings say."""
