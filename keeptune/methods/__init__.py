"""The methods shelf: ways to change a model, one file each.

A method says where its deltas go (`place`), how they start (`start`), what they cost (`cost`) and, if it can, how
they fold into the base (`fold`). Attaching, rows, saving and detaching are the engine's, and alike for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import Self

from keeptune.core.cost import Cost as Cost
from keeptune.core.cost import Held as Held
from keeptune.core.errors import PlanError
from keeptune.core.shelves import shelf_folder
from keeptune.core.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from keeptune.core.shape import ModelShape
    from keeptune.engine.places import Placed
    from keeptune.methods._saved import load_adapter as load_adapter
    from keeptune.methods._saved import save_adapter as save_adapter


class Method(Spec, shelf="keeptune.methods"):
    """A way to change a model.

    Attributes:
        detachable: taken off, it leaves the base bitwise as it was; so the base is its own KL reference.
        identity_at_start: just attached, it changes no output.
        trains_base: its parameters are the base's own.
        mergeable: `fold` can put it into the base's weights, whatever its settings.
        reads_only: it answers beside the model and changes nothing that the model computes.
    """

    detachable: ClassVar[bool] = True
    identity_at_start: ClassVar[bool] = True
    trains_base: ClassVar[bool] = False
    mergeable: ClassVar[bool] = False
    reads_only: ClassVar[bool] = False

    frozen: bool = Field(False, description="Active, but not trained: a part of a hybrid.")

    @property
    def fits_4bit(self) -> bool:
        """Whether it works on a base in 4 bits; `attach` refuses where it does not."""
        return not self.trains_base

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns of a row that it names, in their order."""
        return ()

    def fitted(self, answers: Sequence[str]) -> Self:
        """The same method with the settings that only the data can decide.

        Args:
            answers: the different answers of the training rows, in order.
        """
        return self

    def adjusted(self, model: PreTrainedModel) -> Self:
        """The same method with the settings that only the model can decide."""
        return self

    @property
    def merges(self) -> bool:
        """Whether this one can be folded: as the kind says, unless a setting decides."""
        return self.mergeable

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """The deltas and where they go; their values are set by `start`, or read from a file.

        Raises:
            PlanError: the method cannot work on this model, with what would.
        """
        raise NotImplementedError

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Sets the initial values of the deltas."""
        raise NotImplementedError

    def trained(self, model: PreTrainedModel) -> list[str]:
        """Names of the base's own parameters that it trains."""
        return []

    def cost(self, shape: ModelShape) -> Cost:
        """Trainable parameters and stored bytes on a model of that shape."""
        raise NotImplementedError

    def takes(self, shape: ModelShape, tokenizer: Any) -> int:
        """Positions that it takes beside each text, on a model whose positions are a table; see `Cost.virtual_tokens`.

        Args:
            shape: of the model.
            tokenizer: of the model, for whoever writes words around a text.
        """
        return 0

    def peft_config(self, placed: Sequence[Placed]) -> dict[str, Any] | None:
        """PEFT's config of it, where its tensors have PEFT's own names already."""
        return None

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """Puts the deltas into the base's weights."""
        raise NotImplementedError

    def penalty(self, placed: Sequence[Placed]) -> Tensor | None:
        """What it adds to the objective in training, and nowhere else: a scalar, or None.

        Asked once per micro-batch, after its forward pass; the answers are weighted by their share of the rows.
        """
        return None

    def after_step(self, placed: Sequence[Placed], step: int, total: int) -> None:
        """Told after every optimiser step, while its gradients are still there.

        Args:
            placed: its deltas.
            step: the number of the step, from 1.
            total: steps of the whole training.
        """

    def saved_settings(self) -> dict[str, Any]:
        """The settings that a saved adapter carries: plain data with every number resolved."""
        return self.to_dict()

    def attach(self, model: PreTrainedModel, name: str = "default", *, trainable: bool = True, seed: int = 0) -> None:
        """Puts the method on a model under `name`; it serves every row from now on.

        Args:
            model: as `keeptune.load` gives it.
            name: letters, digits, `_` and `-`.
            trainable: False: active, but frozen.
            seed: of the initial values.

        Raises:
            PlanError: the name is taken (E-ADAPTER-NAME), or the method cannot work on this model.
        """
        attach(model, self, name, trainable=trainable, seed=seed)

    def merge(self, model: PreTrainedModel, name: str, *, weights: Literal["same", "original"] = "same") -> None:
        """Folds the adapter `name` into the base and takes it off; outputs stay what they were with it on.

        A base in 4 bits becomes a stock model on the way, which `save_pretrained` writes like any other.

        Args:
            model: carries the adapter.
            name: its name.
            weights: of a base in 4 bits, which weights to fold into: the `same` that it was trained on, written out in
                16 bits; or the `original` ones from the base's files, which give a slightly other model.

        Raises:
            PlanError: no such adapter (E-ADAPTER-NAME), or it cannot be folded (E-ADAPTER-MERGE).
        """
        merge(model, name, weights=weights)


def attach(
    model: PreTrainedModel,
    method: Method | Sequence[Method],
    name: str = "default",
    *,
    trainable: bool = True,
    seed: int = 0,
) -> None:
    """Puts a method, or several as one hybrid, on a model under `name`; see `Method.attach`."""
    from keeptune.engine.book import check_name

    methods = [method] if isinstance(method, Method) else list(method)
    if not methods or not all(isinstance(item, Method) for item in methods):
        raise PlanError("`attach` takes a method or a list of methods.", code="E-METHOD-KIND")
    check_name(model, name)
    check_together(methods)
    methods = [item.adjusted(model) for item in methods]
    placed = place_methods(model, methods)
    for item, part in zip(methods, placed, strict=True):
        item.start(model, part, seed)
    install_methods(model, methods, placed, name, trainable=trainable)


def check_together(methods: Sequence[Method]) -> None:
    """Refuses a hybrid in which two methods train the base's own weights: one of them says which.

    Raises:
        PlanError: E-METHOD-TWICE.
    """
    own = [item.name for item in methods if item.trains_base and not item.frozen]
    if len(own) > 1:
        raise PlanError(
            f"{' and '.join(own)} both train the base's own weights.",
            code="E-METHOD-TWICE",
            fix="Keep one of them; `freeze` says which layers learn.",
        )


def place_methods(model: PreTrainedModel, methods: Sequence[Method]) -> list[list[Placed]]:
    """The deltas of each method, their values not set yet.

    Raises:
        PlanError: a method cannot work on this model; on a base in 4 bits, E-METHOD-QUANTISED; two of them do what an
            adapter has one for, E-METHOD-TWICE.
    """
    from keeptune.engine.decisions import Decisions
    from keeptune.engine.readout import Reading
    from keeptune.models.quantize import quantization_of

    for item in methods:
        if not item.fits_4bit and quantization_of(model):
            raise PlanError(
                f"'{item.name}' needs the base's own weights, and this base keeps them in 4 bits.",
                code="E-METHOD-QUANTISED",
                fix="Use a method that adds to the base, such as lora, or load the base without `quantize`.",
            )
    placed = [item.place(model) for item in methods]
    for kind, what in ((Reading, "read labels off the model's states"), (Decisions, "decide by the request")):
        found = [
            item.name
            for item, part in zip(methods, placed, strict=True)
            if any(isinstance(each.place, kind) for each in part)
        ]
        if len(found) > 1:
            raise PlanError(
                f"{' and '.join(found)} both {what}, and an adapter has one that does.",
                code="E-METHOD-TWICE",
                fix="Keep one of them, or attach them under names of their own.",
            )
    return placed


def install_methods(
    model: PreTrainedModel, methods: Sequence[Method], placed: Sequence[list[Placed]], name: str, *, trainable: bool
) -> None:
    """Puts methods whose deltas are ready on a model."""
    from keeptune.engine.adapter import Adapter
    from keeptune.engine.book import install

    trained = [key for method in methods if not method.frozen for key in method.trained(model)]
    adapter = Adapter(name, methods, placed, trainable, trained)
    for method, part in zip(methods, adapter.parts, strict=True):
        if method.frozen:
            part.requires_grad_(False)
    install(model, adapter)


def cost(methods: Sequence[Method], shape: ModelShape) -> Cost:
    """What a hybrid costs; see `Method.cost` and `check_together`. A frozen part is stored and not trained."""
    check_together(methods)
    costs = [method.cost(shape) for method in methods]
    trained = sum(part.trainable_parameters for method, part in zip(methods, costs, strict=True) if not method.frozen)
    helds = [part.held for part in costs if part.held is not None]
    held = None
    if len(helds) == len(costs):
        fused = [one.fused for one in helds if one.fused is not None]
        held = Held(sum(one.modules for one in helds), sum(fused) if len(fused) == len(helds) else None)
    return Cost(
        trained,
        sum(part.stored_bytes for part in costs),
        held,
        sum(part.held_per_row for part in costs),
        sum(part.virtual_tokens for part in costs),
        sum(part.template_tokens for part in costs),
    )


def penalty(model: PreTrainedModel, name: str) -> Tensor | None:
    """What the methods of an adapter add to the objective in training; see `Method.penalty`."""
    from keeptune.engine.book import require_book

    adapter = require_book(model, name).adapter(name)
    terms = [method.penalty(part) for method, part in zip(adapter.methods, adapter.placed, strict=True)]
    found = [term for term in terms if term is not None]
    return sum(found[1:], found[0]) if found else None


def after_step(model: PreTrainedModel, name: str, step: int, total: int) -> None:
    """Tells the methods of an adapter that the optimiser has made a step; see `Method.after_step`.

    A loop of one's own calls it between `optimizer.step()` and `zero_grad()`; the train stage does it by itself.
    """
    from keeptune.engine.book import require_book

    adapter = require_book(model, name).adapter(name)
    for method, part in zip(adapter.methods, adapter.placed, strict=True):
        method.after_step(part, step, total)


def merge(model: PreTrainedModel, name: str, *, weights: Literal["same", "original"] = "same") -> None:
    """Folds an adapter into the base's weights and takes it off; see `Method.merge`."""
    from keeptune.engine.book import forget, require_book
    from keeptune.engine.compositions import add
    from keeptune.models.load import widen_loaded

    book = require_book(model, name)
    adapter = book.adapter(name)
    for method in adapter.methods:
        if not method.merges:
            raise PlanError(
                f"'{name}' is a {method.name}, which has no form as weights of the base.",
                code="E-ADAPTER-MERGE",
                fix="Keep it as an adapter.",
            )
    for placed in (placed for part in adapter.placed for placed in part):
        others = [other for key, part in book.slots[placed.place].entries.items() if key != name for other in part]
        if others and not all(each.composition is add for each in (placed, *others)):
            raise PlanError(
                f"two adapters meet at '{placed.place.path}' and one does more than add, so their order would change.",
                code="E-ADAPTER-MERGE",
                fix="Detach it, or merge that one first.",
            )
    widen_loaded(model, weights)
    for method, part in zip(adapter.methods, adapter.placed, strict=True):
        method.fold(model, part)
    forget(model, name)


def __getattr__(name: str) -> Any:
    """`keeptune.methods.LoRA`: a member by its class, imported when asked for; so are saving and loading."""
    if name in ("save_adapter", "load_adapter"):
        from keeptune.methods import _saved

        return getattr(_saved, name)
    if not name.startswith("_"):
        import ast

        for member in Method.names():
            tree = ast.parse((shelf_folder(Method.shelf) / f"{member}.py").read_text(encoding="utf-8"))
            if any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body):
                return Method.find(member)
    raise AttributeError(f"module 'keeptune.methods' has no attribute '{name}'")
