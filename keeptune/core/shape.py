"""ModelShape: the arithmetic of a model, from its `config.json` alone.

Enough to count parameters and to price an adapter before any weight is touched. Symbols: V vocabulary, D width,
L layers, H heads, G key-value heads, K head width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from keeptune.core.errors import ModelError, PlanError, did_you_mean

FAMILIES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
}
"""`model_type` of a config to the family whose arithmetic it shares."""

GEMMAS = ("gemma", "gemma2", "gemma3")
TIED_UNLESS_SAID = (*GEMMAS, "gpt2")
GEMMA3_TEXT = {"vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4}
"""What the published config.json of Gemma 3 with a vision tower leaves to its class, `Gemma3TextConfig`."""

EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")

MODULE_ROLES: dict[str, dict[str, tuple[str, ...]]] = {
    "gpt2": {"c_attn": ("qkv",), "c_proj": ("o", "down"), "c_fc": ("up",)},
    "gpt_neox": {
        "query_key_value": ("qkv",),
        "dense": ("o",),
        "dense_h_to_4h": ("up",),
        "dense_4h_to_h": ("down",),
    },
    "phi3": {"qkv_proj": ("qkv",), "o_proj": ("o",), "gate_up_proj": ("gate_up",), "down_proj": ("down",)},
}
"""Names of modules to roles, where they are not `<role>_proj`."""


class Linear(NamedTuple):
    """One linear map of a layer: what it is for, and its input and output widths."""

    role: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class ModelShape:
    """The widths and counts of a causal language model.

    Attributes:
        family: key of `FAMILIES`' values.
        positions: rows of a learned table of positions; 0 with rotary positions.
        tied: whether the head is the embedding's own matrix.
        biased: roles of the linear maps that have a bias.
    """

    family: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    feed_forward: int
    context: int
    tied: bool
    positions: int = 0
    biased: frozenset[str] = frozenset()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Reads the plain data of a `config.json` (`model.config.to_dict()` is the same).

        Of a model with a vision tower, the language model alone is described.

        Raises:
            PlanError: the family is not supported (E-MODEL-FAMILY), or has experts (E-MODEL-MOE).
            ModelError: a key is missing or no number (E-MODEL-CONFIG).
        """
        family = family_of(config)
        inner = config.get("text_config") if family == "gemma3" else None
        settings = {**GEMMA3_TEXT, **config, **inner} if isinstance(inner, Mapping) else config
        return _READERS.get(family, _llama_like)(family, settings)

    @property
    def linear_maps(self) -> tuple[Linear, ...]:
        """The linear maps of one layer; every layer has the same."""
        d, f = self.width, self.feed_forward
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        fused = [Linear("qkv", d, q + 2 * kv)]
        split = [Linear("q", d, q), Linear("k", d, kv), Linear("v", d, kv)]
        attention = fused if self.family in MODULE_ROLES else split
        if self.family == "phi3":
            entry = [Linear("gate_up", d, 2 * f)]
        elif self.family in ("gpt2", "gpt_neox"):
            entry = [Linear("up", d, f)]
        else:
            entry = [Linear("gate", d, f), Linear("up", d, f)]
        return (*attention, Linear("o", q, d), *entry, Linear("down", f, d))

    def linears(self, targets: Literal["all"] | Sequence[str] = "all") -> list[Linear]:
        """The linear maps of one layer that `targets` names, in the order of the forward pass; times `layers` in all.

        Args:
            targets: roles (`q`), names of modules (`q_proj`), or `all`: every linear map of a block, never the head.

        Raises:
            PlanError: a target is no linear map of this family (E-MODEL-TARGET).
        """
        maps = self.linear_maps
        if targets == "all":
            return list(maps)
        wanted: set[str] = set()
        for target in targets:
            wanted.update(self._roles(target, [linear.role for linear in maps]))
        return [linear for linear in maps if linear.role in wanted]

    def parameters(self) -> int:
        """All parameters, each counted once (a tied head has none of its own).

        Embedding V D (+ positions), per layer the linear maps with their biases and the norms, a final norm, a head.
        """
        return self.embedding_parameters + self.layers * self.layer_parameters + self.norm_width + self.head_parameters

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        biases = sum(linear.outputs for linear in self.linear_maps if linear.role in self.biased)
        weights = sum(linear.inputs * linear.outputs for linear in self.linear_maps)
        return weights + biases + self.layer_norm_parameters

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the tables of tokens and positions."""
        return (self.vocabulary + self.positions) * self.width

    @property
    def head_parameters(self) -> int:
        """Parameters that the head has of its own."""
        return 0 if self.tied else self.vocabulary * self.width

    @property
    def norm_width(self) -> int:
        """Parameters of one norm over the width: LayerNorm has gain and bias, RMSNorm gain only."""
        return 2 * self.width if self.family in ("gpt2", "gpt_neox") else self.width

    @property
    def layer_norm_parameters(self) -> int:
        """Parameters of all norms of one layer."""
        over_heads = 2 if self.family in ("qwen3", "gemma3") else 0
        return self.layer_norms * self.norm_width + over_heads * self.head_width

    @property
    def layer_norms(self) -> int:
        """Norms over the width in one layer: before the two sublayers, and in some families behind them too."""
        return 4 if self.family in ("gemma2", "gemma3") else 2

    def _roles(self, target: str, known: list[str]) -> tuple[str, ...]:
        modules = MODULE_ROLES.get(self.family) or {f"{role}_proj": (role,) for role in known}
        if target in known:
            return (target,)
        if target in modules:
            return modules[target]
        raise PlanError(
            f"'{target}' is no linear map of a {self.family} model.",
            code="E-MODEL-TARGET",
            where={"key": "targets"},
            fix=did_you_mean(target, [*known, *modules]),
        )


def family_of(config: Mapping[str, Any]) -> str:
    """The family of a config.

    Raises:
        PlanError: E-MODEL-FAMILY or E-MODEL-MOE.
    """
    model_type = config.get("model_type")
    if "moe" in str(model_type) or "mixtral" in str(model_type) or any(config.get(key) for key in EXPERT_KEYS):
        raise PlanError(
            f"'{model_type}' is a mixture of experts, which is not verified yet.",
            code="E-MODEL-MOE",
            fix="Use a dense model.",
        )
    if model_type not in FAMILIES:
        raise PlanError(
            f"models of the type '{model_type}' are not supported.",
            code="E-MODEL-FAMILY",
            fix=f"Supported: {', '.join(FAMILIES)}.",
        )
    return FAMILIES[str(model_type)]


def _llama_like(family: str, config: Mapping[str, Any]) -> ModelShape:
    width, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    usual = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3": 256}.get(family, width // heads)
    return ModelShape(
        family=family,
        vocabulary=_count(config, "vocab_size"),
        width=width,
        layers=_count(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_count(config, "num_key_value_heads", heads),
        head_width=_count(config, "head_dim", usual),
        feed_forward=_count(config, "intermediate_size"),
        context=_count(config, "max_position_embeddings", 2048),
        tied=bool(config.get("tie_word_embeddings", family in TIED_UNLESS_SAID)),
        biased=_biased(family, config),
    )


def _gpt2(family: str, config: Mapping[str, Any]) -> ModelShape:
    width, heads, context = _count(config, "n_embd"), _count(config, "n_head"), _count(config, "n_positions", 1024)
    return ModelShape(
        family=family,
        vocabulary=_count(config, "vocab_size"),
        width=width,
        layers=_count(config, "n_layer"),
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        feed_forward=_count(config, "n_inner", 4 * width),
        context=context,
        tied=bool(config.get("tie_word_embeddings", True)),
        positions=context,
        biased=frozenset(("qkv", "o", "up", "down")),
    )


def _gpt_neox(family: str, config: Mapping[str, Any]) -> ModelShape:
    width, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    attention = ("qkv", "o") if config.get("attention_bias", True) else ()
    return ModelShape(
        family=family,
        vocabulary=_count(config, "vocab_size"),
        width=width,
        layers=_count(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        feed_forward=_count(config, "intermediate_size"),
        context=_count(config, "max_position_embeddings", 2048),
        tied=bool(config.get("tie_word_embeddings", False)),
        biased=frozenset((*attention, "up", "down")),
    )


_READERS = {"gpt2": _gpt2, "gpt_neox": _gpt_neox}


def _biased(family: str, config: Mapping[str, Any]) -> frozenset[str]:
    if family == "qwen2":
        return frozenset(("q", "k", "v"))
    if family in ("mistral", "phi3"):
        return frozenset()
    attention = ("q", "k", "v", "o") if config.get("attention_bias") else ()
    feed_forward = ("gate", "up", "down") if family == "llama" and config.get("mlp_bias") else ()
    return frozenset((*attention, *feed_forward))


def _count(config: Mapping[str, Any], key: str, usual: int | None = None) -> int:
    value = config.get(key)
    value = usual if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(
            f"'{key}' is {value!r}; a positive whole number is needed." if key in config else f"'{key}' is missing.",
            code="E-MODEL-CONFIG",
            where={"file": "config.json", "key": key},
            fix="Use the config.json that belongs to the weights.",
        )
    return value
