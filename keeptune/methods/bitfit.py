"""BitFit: biases alone (Ben Zaken et al. 2022, arXiv:2106.10199).

    y = W x + (b + db),    and in a LayerNorm  y = n(x) g + (b + db)

db starts as zero and stands beside the frozen bias, so that it comes off bitwise, every row can have its own, and a
file holds the change and not the sum. The paper's half-size variant trains the query and the first feed-forward map:
`targets: [q, up]`. Most newer decoders have few biases or none; `add_missing` gives every targeted linear map one.

Without rotary positions a bias of the keys adds the same to every score of a query, so it has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from keeptune.core.errors import PlanError, did_you_mean
from keeptune.core.shape import ModelShape, distinct_inputs
from keeptune.engine.places import ModuleOutput, Placed
from keeptune.methods import Cost, Held, Method
from keeptune.models.anatomy import Anatomy, anatomy_of, norms_over_width
from keeptune.models.families import linear_places, norm_roles

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

FINAL = "final_norm"
ATTENTION = {"attention_bias": ("q", "k", "v", "o")}
SWITCHES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "llama": {**ATTENTION, "mlp_bias": ("gate", "up", "down")},
    "qwen3": ATTENTION,
    "gemma": ATTENTION,
    "gemma2": ATTENTION,
    "gemma3_text": ATTENTION,
    "gpt_neox": {"attention_bias": ("qkv", "o")},
}
"""By family: the keys of config.json that give linear maps a bias, and which ones."""


class BitFit(Method):
    """Trains biases, and nothing else."""

    mergeable: ClassVar[bool] = True

    targets: Literal["all"] | list[str] = Field("all", description="Linear maps (q, up) and norms by role, or all.")
    add_missing: bool = Field(False, description="Give targeted linear maps without a bias one of zeros.")

    def place(self, model: PreTrainedModel) -> list[Placed]:
        """One vector on the output of each targeted module."""
        from keeptune.methods._bias_shift import Shift

        anatomy = anatomy_of(model)
        candidates = _candidates(model, anatomy)
        linear = set(anatomy.roles)
        biased = {role for role, place in candidates if _bias(model, place.path) is not None}
        chosen = self._chosen(list(dict.fromkeys(role for role, _ in candidates)), linear, biased)
        return [Placed(place, Shift(_width(model, place.path))) for role, place in candidates if role in chosen]

    def start(self, model: PreTrainedModel, placed: Sequence[Placed], seed: int) -> None:
        """Zero, as they are made."""

    def cost(self, shape: ModelShape) -> Cost:
        """The output width of each targeted linear map and norm."""
        maps = [linear for _, _, linear in linear_places(shape)]
        norms = [role for _, role in norm_roles(shape)] + ([FINAL] if shape.final_norm_parameters else [])
        biased = {*shape.biased, *(norms if shape.norm_biased else [])}
        roles = list(dict.fromkeys([*(linear.role for linear in maps), *norms]))
        chosen = self._chosen(roles, {linear.role for linear in maps}, biased)
        count = sum(linear.outputs for linear in maps if linear.role in chosen)
        served = [linear for linear in shape.linear_maps if linear.role in chosen]
        count += shape.width * sum(role in chosen for role in norms)
        return Cost(count, 4 * count, held=Held(0, shape.layers * distinct_inputs(served, besides="o")))

    def fold(self, model: PreTrainedModel, placed: Sequence[Placed]) -> None:
        """B + db in float32, cast once. Missing biases are made where a config.json can say that they are there."""
        import torch

        missing = [place.path for place, _, _ in placed if _bias(model, place.path) is None]
        if missing:
            _add_biases(model, missing)
        with torch.no_grad():
            for place, delta, _ in placed:
                bias = model.get_submodule(place.path).bias
                bias.copy_(bias.float() + delta.shift)

    def _chosen(self, roles: Sequence[str], linear: set[str], biased: set[str]) -> set[str]:
        """The roles that get a vector."""
        possible = {role for role in roles if role in biased or (self.add_missing and role in linear)}
        wanted = possible if self.targets == "all" else set(self.targets)
        unknown = sorted(wanted - set(roles))
        if unknown:
            raise PlanError(
                f"'{unknown[0]}' is no role of a linear map or norm of this model.",
                code="E-METHOD-TARGET",
                where={"key": "targets"},
                fix=did_you_mean(unknown[0], roles),
            )
        if not wanted or wanted - possible:
            there = f"Biases that exist: {', '.join(role for role in roles if role in biased)}." if biased else ""
            named = ", ".join(role for role in roles if role in wanted - possible)
            raise PlanError(
                f"the model has no bias in: {named}." if named else "the model has no biases.",
                code="E-METHOD-BIAS",
                where={"key": "targets"},
                why=there,
                fix="Set `add_missing: true` for linear maps, or use `norm` to train the gains of its norms.",
            )
        return wanted


def _candidates(model: PreTrainedModel, anatomy: Anatomy) -> list[tuple[str, ModuleOutput]]:
    """Role and place of every module that can have a bias, in model order."""
    found = []
    for layer in anatomy.layers:
        modules = {**layer.linear, **norms_over_width(layer)}
        found += [(role, ModuleOutput(path, layer.index)) for role, path in modules.items()]
    return found + ([(FINAL, ModuleOutput(anatomy.final_norm))] if anatomy.final_norm else [])


def _bias(model: PreTrainedModel, path: str) -> Tensor | None:
    return getattr(model.get_submodule(path), "bias", None)


def _width(model: PreTrainedModel, path: str) -> int:
    from keeptune.methods._low_rank import widths

    module = model.get_submodule(path)
    weight = module.weight
    return len(weight) if weight.ndim == 1 else widths(module, path)[1]


def _add_biases(model: PreTrainedModel, paths: Sequence[str]) -> None:
    """Gives linear maps biases of zeros, and all others that the same key of the config speaks of."""
    from torch import nn

    from keeptune.methods._low_rank import widths

    anatomy = anatomy_of(model)
    role_of = {path: role for layer in anatomy.layers for role, path in layer.linear.items()}
    needed = {role_of[path] for path in paths}
    switches = {key: roles for key, roles in SWITCHES.get(anatomy.family, {}).items() if needed & set(roles)}
    unsaid = needed - {role for roles in switches.values() for role in roles}
    if unsaid:
        raise PlanError(
            f"no config.json of a {anatomy.family} model can say that {', '.join(sorted(unsaid))} have biases.",
            code="E-ADAPTER-MERGE",
            fix="Keep them as an adapter.",
        )
    for key, roles in switches.items():
        setattr(model.config, key, True)
        for layer in anatomy.layers:
            for module in (model.get_submodule(layer.linear[role]) for role in roles):
                if module.bias is None:
                    module.bias = nn.Parameter(module.weight.new_zeros(widths(module, key)[1]))
