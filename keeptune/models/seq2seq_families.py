"""The tables of the encoder-decoders: an encoder's blocks, then a decoder's with cross attention."""

from __future__ import annotations

from collections.abc import Mapping

from keeptune.models.family import Family, Stack


def _t5(gate: Mapping[str, str]) -> Family:
    """Norms before the sublayers; the block's `layer` list holds one module per sublayer."""
    return Family(
        embedding="shared",
        final_norm="decoder.final_layer_norm",
        stacks=(_t5_stack("encoder", 1, gate), _t5_stack("decoder", 2, gate)),
        kind="encoder_decoder",
        positions=None,
    )


def _t5_stack(side: str, last: int, gate: Mapping[str, str]) -> Stack:
    crossing = side == "decoder"
    linear = {role: f"layer.0.SelfAttention.{role}" for role in "qkvo"}
    norms = {"attention_in": "layer.0.layer_norm"}
    if crossing:
        linear.update({f"cross_{role}": f"layer.1.EncDecAttention.{role}" for role in "qkvo"})
        norms["cross_in"] = "layer.1.layer_norm"
    linear.update({role: f"layer.{last}.DenseReluDense.{name}" for role, name in gate.items()})
    norms["feed_forward_in"] = f"layer.{last}.layer_norm"
    return Stack(
        blocks=f"{side}.block",
        attention="layer.0.dropout",
        feed_forward=f"layer.{last}.dropout",
        linear=linear,
        norms=norms,
        attends="layer.0.SelfAttention",
        reads={
            "attention": "layer.0.SelfAttention",
            "cross": "layer.1.EncDecAttention",
            "feed_forward": f"layer.{last}.DenseReluDense",
        },
        cross="layer.1.dropout" if crossing else "",
        cross_attends="layer.1.EncDecAttention" if crossing else "",
    )


def _bart_stack(side: str) -> Stack:
    crossing = side == "decoder"
    linear = _bart_attention("", "self_attn")
    norms = {"attention_out": "self_attn_layer_norm"}
    if crossing:
        linear.update(_bart_attention("cross_", "encoder_attn"))
        norms["cross_out"] = "encoder_attn_layer_norm"
    return Stack(
        blocks=f"model.{side}.layers",
        attention="self_attn",
        feed_forward="fc2",
        linear={**linear, "up": "fc1", "down": "fc2"},
        norms={**norms, "feed_forward_out": "final_layer_norm"},
        reads={"feed_forward": "fc1"},
        cross="encoder_attn" if crossing else "",
    )


def _bart_attention(prefix: str, module: str) -> dict[str, str]:
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
    return {f"{prefix}{role}": f"{module}.{name}" for role, name in names.items()}


BART = Family(
    embedding="model.shared",
    final_norm="",
    stacks=(_bart_stack("encoder"), _bart_stack("decoder")),
    kind="encoder_decoder",
    body="model",
    positions=None,
)

SEQ2SEQ: Mapping[str, Family] = {
    "t5": _t5({"up": "wi", "down": "wo"}),
    "t5_gated": _t5({"gate": "wi_0", "up": "wi_1", "down": "wo"}),
    "bart": BART,
}
