"""Any other type of PEFT, by its name: `{name: peft, type: vera, settings: {r: 64}}`.

    h <- h + (L(x) - (W x + b)),    L: PEFT's layer around the linear map W x + b

PEFT replaces a model's modules; here its layers stand beside the frozen base and their change is added. So what PEFT
cannot do works: rows of one batch with different adapters, two methods at once, the base bitwise beside it. The price:
each targeted map is computed three times. PEFT makes the layers, gives them their start and merges them, and the files
are PEFT's own. Types that keeptune has itself, or that do not sit on a linear map alone, are refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, JsonValue

from keeptune.core.errors import PlanError
from keeptune.core.shape import ModelShape
from keeptune.engine.places import ModuleOutput, Placed
from keeptune.methods import Cost, Method
from keeptune.methods._low_rank_settings import Targets
from keeptune.methods.lora import targeted_maps
from keeptune.models.anatomy import anatomy_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from keeptune.models.peft_library import Built

STARTS_ELSEWHERE = ("c3a", "deft", "fourierft", "frod", "hra", "osf", "unilora", "vblora")
"""Types whose layers do not start as exactly the base."""


class Peft(Method):
    """A method of PEFT's on linear maps."""

    mergeable: ClassVar[bool] = True

    type: str = Field(description="PEFT's name of it, such as vera, hira, oft, loha or fourierft.")
    settings: dict[str, JsonValue] = Field({}, description="As in PEFT's config of that type.")
    targets: Targets = "all"

    @property
    def identity_at_start(self) -> bool:  # type: ignore[override]  # it depends on the type
        """Whether the type starts as the base, unless its settings speak of the start."""
        return self.type not in STARTS_ELSEWHERE and not any(key.startswith("init") for key in self.settings)

    @property
    def fits_4bit(self) -> bool:
        """Most types read the weights themselves."""
        return False

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """PEFT's layer beside each target."""
        from keeptune.methods._borrowed import Borrowed, check_tokens
        from keeptune.methods._low_rank import widths

        anatomy = anatomy_of(model)
        layers = {path: layer.index for layer in anatomy.layers for path in layer.linear.values()}
        built = self._build(model, anatomy.linear_paths(self.targets), seed=0)
        placed: list[Placed] = []
        for path, layer in built.layers.items():
            lead = built if not placed else None
            placed.append(Placed(PeftOutput(path, layers[path]), Borrowed(layer, lead)))
        first = placed[0].place.path
        module = model.get_submodule(first)
        check_tokens(placed[0].delta, module, widths(module, first)[0])
        return placed

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """As PEFT starts them, from the seed."""
        built = self._build(model, [place.path for place, _, _ in placed], seed)
        for (place, delta, _), lead in zip(placed, [built, *[None] * (len(placed) - 1)], strict=True):
            delta.take(built.layers[place.path], lead)

    def cost(self, shape: ModelShape) -> Cost:
        """Counted on PEFT's own layers around maps of that shape; on real ones where a type reads their weights."""
        try:
            built = self._build_bare(shape, "meta")
        except PlanError as error:
            if not isinstance(error.__cause__, NotImplementedError):
                raise
            built = self._build_bare(shape, "cpu")
        trained = sum(parameter.numel() for parameter in built.owner.parameters() if parameter.requires_grad)
        return Cost(trained, sum(tensor.numel() * tensor.element_size() for tensor in built.tensors().values()))

    def peft_config(self, placed: Sequence[Placed]) -> dict[str, Any]:
        """PEFT's own."""
        config: dict[str, Any] = placed[0].delta.lead.config()
        return config

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """PEFT's merge, checked for finite weights."""
        from keeptune.models.peft_library import fold

        for _, delta, _ in placed:
            fold(delta.layer)

    def _build(self, model: PreTrainedModel, paths: Sequence[str], seed: int) -> Built:
        from keeptune.models.peft_library import build

        return build({path: model.get_submodule(path) for path in paths}, self.type, self.settings, seed)

    def _build_bare(self, shape: ModelShape, device: str) -> Built:
        import torch
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        from keeptune.models.peft_library import build

        with torch.device(device):
            maps = {
                path: Conv1D(outputs, inputs)
                if shape.family == "gpt2"
                else nn.Linear(inputs, outputs, bias=role in shape.biased)
                for path, (role, inputs, outputs) in targeted_maps(shape, self.targets)
            }
        return build({path: module.requires_grad_(False) for path, module in maps.items()}, self.type, self.settings, 0)


class PeftOutput(ModuleOutput):
    """The output of a linear map; files name what belongs to it as PEFT does.

    It is the same place as `ModuleOutput` of that path: what stands there runs in the order of each row's stack.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModuleOutput) and other.path == self.path

    def __hash__(self) -> int:
        return hash(ModuleOutput(self.path))

    def name_of(self, parameter: str) -> str:
        """PEFT's own name."""
        return parameter
