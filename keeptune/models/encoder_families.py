"""The tables of the encoders: bidirectional attention, one stack of blocks."""

from __future__ import annotations

from collections.abc import Mapping

from keeptune.models.family import Family, PositionRule, Stack


def _bert_like(body: str, attention: Mapping[str, str], positions: PositionRule | None, cloze: str = "cls") -> Family:
    """Norms behind the sublayers; a sublayer's output is what leaves its dropout, as in Houlsby's code for BERT."""
    stack = Stack(
        blocks=f"{body}.encoder.layer",
        attention="attention.output.dropout",
        feed_forward="output.dropout",
        linear={**attention, "o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"},
        norms={"attention_out": "attention.output.LayerNorm", "feed_forward_out": "output.LayerNorm"},
        attends="attention.self",
        reads={"attention": "attention.self", "feed_forward": "intermediate"},
    )
    return Family(
        embedding=f"{body}.embeddings.word_embeddings",
        final_norm="",
        stacks=(stack,),
        kind="encoder",
        body=body,
        registry=positions is not None,
        positions=positions,
        cloze=(cloze,),
    )


BERT_ATTENTION = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
DEBERTA_ATTENTION = {role: f"{path}_proj" for role, path in BERT_ATTENTION.items()}

MODERNBERT = Family(
    embedding="model.embeddings.tok_embeddings",
    final_norm="model.final_norm",
    stacks=(
        Stack(
            blocks="model.layers",
            attention="attn",
            feed_forward="mlp",
            linear={"qkv": "attn.Wqkv", "o": "attn.Wo", "gate_up": "mlp.Wi", "down": "mlp.Wo"},
            norms={"attention_in": "attn_norm", "feed_forward_in": "mlp_norm"},
        ),
    ),
    kind="encoder",
    body="model",
    positions="plain",
    cloze=("head", "decoder"),
)

VIT = Family(
    embedding="vit.embeddings.patch_embeddings",
    final_norm="vit.layernorm",
    stacks=(
        Stack(
            blocks="vit.layers",
            attention="attention",
            feed_forward="mlp",
            linear={**{role: f"attention.{role}_proj" for role in "qkvo"}, "up": "mlp.fc1", "down": "mlp.fc2"},
            norms={"attention_in": "layernorm_before", "feed_forward_in": "layernorm_after"},
        ),
    ),
    kind="image",
    body="vit",
    positions=None,
)

ENCODERS: Mapping[str, Family] = {
    "bert": _bert_like("bert", BERT_ATTENTION, "plain"),
    "roberta": _bert_like("roberta", BERT_ATTENTION, "offset", cloze="lm_head"),
    "deberta-v2": _bert_like("deberta", DEBERTA_ATTENTION, None),
    "modernbert": MODERNBERT,
    "vit": VIT,
}
