"""ModelShape: the arithmetic of a model, from its `config.json` alone.

Enough to count parameters and to price an adapter before any weight is touched. The layers of an encoder-decoder are
counted through, those of the encoder first. Symbols: V vocabulary, D width, L layers, H heads, G key-value heads,
K head width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from keeptune.core.config_count import count
from keeptune.core.encoder_shapes import READERS
from keeptune.core.errors import PlanError, did_you_mean

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
    "bert": "bert",
    "roberta": "roberta",
    "deberta-v2": "deberta-v2",
    "modernbert": "modernbert",
    "t5": "t5",
    "mt5": "t5",
    "bart": "bart",
    "vit": "vit",
}
"""`model_type` of a config to the family whose arithmetic it shares."""

GEMMAS = ("gemma", "gemma2", "gemma3")
TIED_UNLESS_SAID = (*GEMMAS, "gpt2")
FUSED = ("gpt2", "gpt_neox", "phi3", "modernbert")
UNGATED = ("gpt2", "gpt_neox", "bert", "roberta", "deberta-v2", "t5", "bart", "vit")
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
    "bert": {"query": ("q",), "key": ("k",), "value": ("v",), "dense": ("o", "up", "down")},
    "roberta": {"query": ("q",), "key": ("k",), "value": ("v",), "dense": ("o", "up", "down")},
    "deberta-v2": {"query_proj": ("q",), "key_proj": ("k",), "value_proj": ("v",), "dense": ("o", "up", "down")},
    "modernbert": {"Wqkv": ("qkv",), "Wi": ("gate_up",), "Wo": ("o", "down")},
    "t5": {"wi": ("up",), "wo": ("down",)},
    "t5_gated": {"wi_0": ("gate",), "wi_1": ("up",), "wo": ("down",)},
    "bart": {
        "q_proj": ("q",),
        "k_proj": ("k",),
        "v_proj": ("v",),
        "out_proj": ("o",),
        "fc1": ("up",),
        "fc2": ("down",),
    },
    "vit": {"q_proj": ("q",), "k_proj": ("k",), "v_proj": ("v",), "o_proj": ("o",), "fc1": ("up",), "fc2": ("down",)},
}
"""Names of modules to roles, where they are not `<role>_proj`."""


INPUTS = {role: "attention" for role in ("q", "k", "v", "qkv")} | dict.fromkeys(("gate", "up", "gate_up"), "sublayer")
"""Roles whose maps read one and the same tensor."""


class Linear(NamedTuple):
    """One linear map of a layer: what it is for, and its input and output widths."""

    role: str
    inputs: int
    outputs: int


def distinct_inputs(maps: Iterable[Linear], besides: str = "") -> int:
    """Sum of the widths of the different inputs that linear maps of one layer read; q, k and v read the same one.

    Args:
        maps: of one layer.
        besides: a role whose input is left out.
    """
    roles = {linear.role.removeprefix("cross_"): linear.inputs for linear in maps if linear.role != besides}
    return sum({INPUTS.get(role, role): inputs for role, inputs in roles.items()}.values())


@dataclass(frozen=True)
class ModelShape:
    """The widths and counts of a model.

    Attributes:
        family: key of `FAMILIES`' values.
        positions: rows of a learned table of positions; 0 with rotary positions.
        tied: whether the head is the embedding's own matrix.
        biased: roles of the linear maps that have a bias.
        encoder_layers: of an encoder-decoder, how many of the layers are the encoder's.
        norm_biased: whether norms have a bias beside the gain.
        first_norms: norms over the width in layer 0, where they are fewer than in the others.
        first_extra: parameters that the first layer of each stack has more than the others.
        outside: parameters outside the blocks; None: embedding, positions, one norm, a head.
        before: of an encoder, those of them that stand before the blocks.
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
    tied: bool = True
    positions: int = 0
    biased: frozenset[str] = frozenset()
    encoder_layers: int = 0
    norm_biased: bool = False
    first_norms: int | None = None
    first_extra: int = 0
    outside: int | None = None
    before: int | None = None

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
        if family in READERS:
            return cls(family=family, **READERS[family](settings))
        return _READERS.get(family, _llama_like)(family, settings)

    def maps_of(self, layer: int) -> tuple[Linear, ...]:
        """The linear maps of one layer; the decoder of an encoder-decoder has those of its cross attention too."""
        if not self.encoder_layers or layer < self.encoder_layers:
            return self.linear_maps
        attention = [linear for linear in self.linear_maps if linear.role in ("q", "k", "v", "o")]
        cross = [linear._replace(role=f"cross_{linear.role}") for linear in attention]
        return (*attention, *cross, *self.linear_maps[len(attention) :])

    @property
    def linear_maps(self) -> tuple[Linear, ...]:
        """The linear maps that every layer has."""
        d, f = self.width, self.feed_forward
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        fused = [Linear("qkv", d, q + 2 * kv)]
        split = [Linear("q", d, q), Linear("k", d, kv), Linear("v", d, kv)]
        attention = fused if self.family in FUSED else split
        if self.family in ("phi3", "modernbert"):
            entry = [Linear("gate_up", d, 2 * f)]
        elif self.family in UNGATED:
            entry = [Linear("up", d, f)]
        else:
            entry = [Linear("gate", d, f), Linear("up", d, f)]
        return (*attention, Linear("o", q, d), *entry, Linear("down", f, d))

    def linears(self, targets: Literal["all"] | Sequence[str] = "all") -> list[Linear]:
        """The linear maps of the last layer that `targets` names, in the order of the forward pass.

        Args:
            targets: roles (`q`), names of modules (`q_proj`), or `all`: every linear map of a block, never the head.

        Raises:
            PlanError: a target is no linear map of this family (E-MODEL-TARGET).
        """
        maps = self.maps_of(self.layers - 1)
        if targets == "all":
            return list(maps)
        wanted: set[str] = set()
        for target in targets:
            wanted.update(self._roles(target, [linear.role for linear in maps]))
        return [linear for linear in maps if linear.role in wanted or linear.role.removeprefix("cross_") in wanted]

    def parameters(self) -> int:
        """All parameters, each counted once (a tied head has none of its own).

        Embedding V D (+ positions), per layer the linear maps with their biases and the norms, a final norm, a head.
        """
        inside = sum(self.parameters_of(layer) for layer in range(self.layers))
        if self.outside is not None:
            return inside + self.outside
        return inside + self.embedding_parameters + self.norm_width + self.head_parameters

    def parameters_of(self, layer: int) -> int:
        """Parameters of one layer."""
        maps = self.maps_of(layer)
        biases = sum(linear.outputs for linear in maps if linear.role in self.biased)
        weights = sum(linear.inputs * linear.outputs for linear in maps)
        weights += self.first_extra if layer in (0, self.encoder_layers) else 0
        return weights + biases + self.norms_of(layer) * self.norm_width + self._head_norm_parameters

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the tables of tokens and positions; of an encoder, of all that stands before the blocks."""
        return self.before if self.before is not None else (self.vocabulary + self.positions) * self.width

    @property
    def head_parameters(self) -> int:
        """Parameters that the head has of its own, of a decoder."""
        return 0 if self.tied else self.vocabulary * self.width

    @property
    def norm_width(self) -> int:
        """Parameters of one norm over the width: LayerNorm has gain and bias, RMSNorm gain only."""
        return 2 * self.width if self.norm_biased else self.width

    @property
    def final_norm_parameters(self) -> int:
        """Of the norm behind the last block; where blocks end in a norm of their own there is none."""
        return 0 if self.family in ("bert", "roberta", "deberta-v2", "bart") else self.norm_width

    @property
    def layer_norms(self) -> int:
        """Norms over the width in one layer: before the two sublayers, and in some families behind them too."""
        return 4 if self.family in ("gemma2", "gemma3") else 2

    def norms_of(self, layer: int) -> int:
        """Norms over the width in this layer; a layer with cross attention has one more."""
        if layer == 0 and self.first_norms is not None:
            return self.first_norms
        return self.layer_norms + (0 < self.encoder_layers <= layer)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward sublayer multiplies two maps of its input."""
        return self.family not in UNGATED

    @property
    def head_norms(self) -> bool:
        """Whether queries and keys are normed head by head."""
        return self.family in ("qwen3", "gemma3")

    @property
    def matrix_parameters(self) -> int:
        """Weights of all linear maps of the blocks: what a base in 4 bits quantises."""
        return sum(linear.inputs * linear.outputs for layer in range(self.layers) for linear in self.maps_of(layer))

    @property
    def _head_norm_parameters(self) -> int:
        """Parameters of the norms of heads, inside one layer's attention."""
        return 2 * self.head_width if self.head_norms else 0

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
    if model_type in ("t5", "mt5") and _gated(config):
        return "t5_gated"
    return FAMILIES[str(model_type)]


def _gated(config: Mapping[str, Any]) -> bool:
    """Whether a T5's feed-forward sublayer has a gate; mT5's class has one where its config does not say."""
    usual = "gated-gelu" if config.get("model_type") == "mt5" else "relu"
    return str(config.get("feed_forward_proj", usual)).startswith("gated-")


def _llama_like(family: str, config: Mapping[str, Any]) -> ModelShape:
    width, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    usual = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3": 256}.get(family, width // heads)
    return ModelShape(
        family=family,
        vocabulary=count(config, "vocab_size"),
        width=width,
        layers=count(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=count(config, "num_key_value_heads", heads),
        head_width=count(config, "head_dim", usual),
        feed_forward=count(config, "intermediate_size"),
        context=count(config, "max_position_embeddings", 2048),
        tied=bool(config.get("tie_word_embeddings", family in TIED_UNLESS_SAID)),
        biased=_biased(family, config),
    )


def _gpt2(family: str, config: Mapping[str, Any]) -> ModelShape:
    width, heads, context = count(config, "n_embd"), count(config, "n_head"), count(config, "n_positions", 1024)
    return ModelShape(
        family=family,
        vocabulary=count(config, "vocab_size"),
        width=width,
        layers=count(config, "n_layer"),
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        feed_forward=count(config, "n_inner", 4 * width),
        context=context,
        tied=bool(config.get("tie_word_embeddings", True)),
        positions=context,
        biased=frozenset(("qkv", "o", "up", "down")),
        norm_biased=True,
    )


def _gpt_neox(family: str, config: Mapping[str, Any]) -> ModelShape:
    width, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    attention = ("qkv", "o") if config.get("attention_bias", True) else ()
    return ModelShape(
        family=family,
        vocabulary=count(config, "vocab_size"),
        width=width,
        layers=count(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        feed_forward=count(config, "intermediate_size"),
        context=count(config, "max_position_embeddings", 2048),
        tied=bool(config.get("tie_word_embeddings", False)),
        biased=frozenset((*attention, "up", "down")),
        norm_biased=True,
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
