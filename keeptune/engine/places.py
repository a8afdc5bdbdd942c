"""Place: where in a model deltas act. A forward hook on a named module; taking it off leaves no trace.

| the paper's place                                  | here                                                    |
|----------------------------------------------------|---------------------------------------------------------|
| output of a linear map, sublayer, norm or block    | `ModuleOutput(path)`                                    |
| a bias                                             | `ModuleOutput(path)` with a delta that ignores `x`, `h` |
| input of a linear map or sublayer                  | `ModuleInput(path)`                                     |
| the residual stream beside a sublayer              | `residual.BesideSublayer(path, norm=path)`              |
| keys and values of an attention                    | `prefixes.KeysValues(path)`                             |
| the input embedding                                | `soft_prompt.InputEmbedding(path)`                      |
| none: parameters that other deltas share           | `Nowhere(path)`                                         |
| gates of a row, before the body                    | `decisions.Decisions(path)`                             |

Another kind of place is another subclass in a file of its own: nothing here asks which kind it holds.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from keeptune.engine.compositions import Composition, Gate, add

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from keeptune.engine.selection import Selection, Serving


class Book(Protocol):
    """What a slot asks of the adapters of its model: who serves which row, and what there is to apply."""

    slots: dict[Place, Slot]

    @property
    def serving(self) -> Serving: ...  # noqa: D102

    def serve(self, serving: Serving) -> AbstractContextManager[None]:
        """Inside, `serving` decides who serves which row."""
        ...

    def plan(self, shape: torch.Size, device: torch.device) -> list[Selection]:
        """What to apply to a tensor of this leading shape."""
        ...


class Placed(NamedTuple):
    """One delta at one place, with its composition: what a method consists of."""

    place: Place
    delta: Any
    composition: Composition = add


class Slot:
    """The deltas of all adapters at one place of one model, and the hooks that run them."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.entries: dict[str, list[Placed]] = {}
        self.handles: list[Any] = []

    @property
    def reads_requests(self) -> bool:
        """Whether it matters to it where the request of a row ends."""
        return False

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def run(self, x: Tensor, h: Tensor) -> Tensor:
        """Applies the deltas that serve this forward pass, in the order of each row's stack."""
        plan = self.book.plan(h.shape[:-1], h.device)
        if plan and plan[0].tokens is not None:
            from keeptune.engine import banks  # torch comes with it, and shelves are read without

            found = banks.added(plan, self.entries, x, h)
            if found is not None:
                return found
        for selection in plan:
            for placed in self.entries.get(selection.adapter, ()):
                h = apply(placed, x, h, selection)
        return h


@dataclass(frozen=True)
class Place:
    """A named spot of the model.

    Attributes:
        path: dotted path of the module.
        layer: index of its block; for gates and for reports.
    """

    path: str
    layer: int | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """Kind and path, without dots: the name of the delta among the parameters of an adapter."""
        return f"{type(self).__name__}:{self.path.replace('.', '/')}"

    def name_of(self, parameter: str) -> str:
        """The name of a delta's parameter in an adapter's file."""
        return f"{self.path}.{parameter}"

    def open(self, model: PreTrainedModel, book: Book) -> Slot:
        """Installs the hooks of this place and returns its slot."""
        raise NotImplementedError


@dataclass(frozen=True)
class ModuleOutput(Place):
    """What a module returns; the first element, when it returns a tuple. The delta also sees the module's input."""

    def open(self, model: PreTrainedModel, book: Book) -> Slot:
        """Hooks the module after its forward pass."""
        slot = OutputSlot(book)
        module = model.get_submodule(self.path)
        slot.handles.append(module.register_forward_hook(slot.after, with_kwargs=True))
        return slot


@dataclass(frozen=True)
class Nowhere(Place):
    """Runs nowhere by itself: its deltas hold what the deltas of other places read. The path only names it."""

    def open(self, model: PreTrainedModel, book: Book) -> Slot:
        """No hooks."""
        return Slot(book)


@dataclass(frozen=True)
class ModuleInput(Place):
    """What a module is given as its first argument, or as `hidden_states`."""

    def open(self, model: PreTrainedModel, book: Book) -> Slot:
        """Hooks the module before its forward pass."""
        slot = InputSlot(book)
        module = model.get_submodule(self.path)
        slot.handles.append(module.register_forward_pre_hook(slot.before, with_kwargs=True))
        return slot


class OutputSlot(Slot):
    """The hook of `ModuleOutput`."""

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The forward hook."""
        x = args[0] if args else kwargs["hidden_states"]
        if isinstance(output, tuple):
            return (self.run(x, output[0]), *output[1:])
        return self.run(x, output)


class InputSlot(Slot):
    """The hook of `ModuleInput`."""

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The forward pre-hook."""
        if args:
            return (self.run(args[0], args[0]), *args[1:]), kwargs
        x = kwargs["hidden_states"]
        return args, {**kwargs, "hidden_states": self.run(x, x)}


def apply(placed: Placed, x: Tensor, h: Tensor, selection: Selection) -> Tensor:
    """The new output of a place: `compose(h, delta(x, h))` on the selected tokens, `h` itself elsewhere."""
    if isinstance(placed.composition, Gate):
        through = placed.composition.open_rows(selection)
        if through is None:
            return h
        selection = through
    if selection.tokens is None:
        dh = placed.delta(x, h, selection).to(h.dtype)
        return placed.composition(h, dh, selection)
    flat = h.reshape(-1, h.shape[-1])
    chosen_x = x.reshape(len(flat), -1).index_select(0, selection.tokens)  # an embedding's x are ids, without a width
    chosen_h = flat.index_select(0, selection.tokens)
    dh = placed.delta(chosen_x, chosen_h, selection).to(h.dtype)
    return flat.index_copy(0, selection.tokens, placed.composition(chosen_h, dh, selection)).view_as(h)
