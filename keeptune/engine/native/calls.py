"""How kernels are called: at once, or several together.

A large kernel sweeps Python's code and objects out of the caches, and what runs between it and the next takes longer
than many a kernel. Inside `together` they wait, and run one after the other at its end: before that nobody may read
what one of them gives but another of them, or who calls `settle`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from ctypes import CDLL
from struct import Struct
from typing import NamedTuple

from torch import Tensor

from keeptune.engine.kernel_contract import MOST_SUMMED

ARGUMENTS = {
    "norm": "3q d 3q",
    "norm_back": "6q d 3q",
    "gated": "3q 2q",
    "gated_back": "6q 2q",
    "rotate": "4q q d 4q",
    "attention": "7q 4q d q",
    "attention_back": "10q 4q d q",
    "next_token": "4q 3q",
    "low_rank": "7q 5q",
}
"""What each kernel of `calls.c` is given: places, then numbers; in the order of the kernels there."""
PRODUCTS = len(ARGUMENTS)


class _Form(NamedTuple):
    """How a call is packed: which kernel, its words, the function that packs."""

    kernel: int
    words: int
    pack: Callable[..., bytes]


def _form(kernel: int, arguments: str) -> _Form:
    packed = Struct(f"2q{arguments}")
    return _Form(kernel, packed.size // 8 - 2, packed.pack)


FORMS = {name: _form(number, arguments) for number, (name, arguments) in enumerate(ARGUMENTS.items())}
SUMS = [_form(PRODUCTS, f"q d 9q {7 * parts}q") for parts in range(MOST_SUMMED + 1)]
"""Of sums of so many products: threads, a `struct sum`, each `struct part`."""


class _Waiting:
    """Calls that wait, and the tensors that live until they have run."""

    def __init__(self) -> None:
        self.library: CDLL | None = None
        self.calls: list[bytes] = []
        self.tensors: list[Sequence[Tensor | None]] = []

    def run(self) -> None:
        calls, library = self.calls, self.library
        tensors, self.calls, self.tensors = self.tensors, [], []
        if library is not None and calls:
            _run(library, b"".join(calls), len(calls))
        del tensors


_waiting: ContextVar[_Waiting | None] = ContextVar("waiting", default=None)


class together:
    """Inside, kernels wait; at the end of the outermost block, they run, also behind an error.

    A layer that is computed again ends in one, of torch's, as soon as all is there that its gradients need.
    """

    def __enter__(self) -> None:
        self._outermost = _waiting.get() is None
        if self._outermost:
            self._mine = _Waiting()
            self._token = _waiting.set(self._mine)

    def __exit__(self, *_: object) -> None:
        if self._outermost:
            _waiting.reset(self._token)
            self._mine.run()


def settle() -> None:
    """Runs the kernels that wait."""
    waiting = _waiting.get()
    if waiting is not None:
        waiting.run()


def call(library: CDLL, name: str, tensors: Sequence[Tensor | None], *numbers: float) -> None:
    """Calls a kernel with the places of these tensors, None where one is not wanted, and numbers.

    Raises:
        MemoryError: it found no room to work in.
    """
    _called(library, FORMS[name], [0 if x is None else x.data_ptr() for x in tensors], numbers, tensors)


def call_products(library: CDLL, numbers: Sequence[float], parts: Sequence[int], tensors: Sequence[Tensor]) -> None:
    """Calls `products`, with the threads, the numbers of a `struct sum`, and those of each `struct part`."""
    _called(library, SUMS[len(parts) // 7], numbers, parts, tensors)


def _called(
    library: CDLL, form: _Form, first: Sequence[float], rest: Sequence[float], tensors: Sequence[Tensor | None]
) -> None:
    packed, waiting = form.pack(form.kernel, form.words, *first, *rest), _waiting.get()
    if waiting is None:
        _run(library, packed, 1)
        return
    if waiting.library is not library:
        waiting.run()
        waiting.library = library
    waiting.calls.append(packed)
    waiting.tensors.append(tensors)


def _run(library: CDLL, packed: bytes, count: int) -> None:
    if library.calls(packed, count) < count:
        raise MemoryError("no memory for what a kernel works in")
