"""Family: the table of one model type, which says where its named places are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["decoder", "encoder", "encoder_decoder", "image"]
PositionRule = Literal["counted", "plain", "offset"]
"""Positions of the text when none are given: `counted` over the mask, so that pads take none; `plain`, from 0 whatever
the mask says; `offset`, counted, but beginning behind the id of the padding token (RoBERTa)."""


@dataclass(frozen=True)
class Stack:
    """Where the named places of one stack of equal blocks are; every path but `blocks` is relative to a block.

    Attributes:
        blocks: path of the list of blocks.
        attention: the module whose output is the attention sublayer's, before the residual is added.
        feed_forward: the same for the feed-forward sublayer.
        linear: role to path. Roles are `q k v o gate up down`; a fused map has the joined role `qkv` or `gate_up`,
            those of cross attention begin with `cross_`.
        norms: role to path. `attention_in` and `feed_forward_in` stand before the two sublayers, `attention_out` and
            `feed_forward_out` behind them (post-norm models have only these), `q` and `k` inside attention; `cross_in`
            or `cross_out` belong to cross attention.
        attends: the module that computes attention, where it is not `attention`.
        reads: sublayer (`attention cross feed_forward`) to the module whose input that sublayer reads, where it is not
            the sublayer's own.
        cross: the cross-attention sublayer; empty where there is none.
        cross_attends: the module that computes cross attention, where it is not `cross`.
    """

    blocks: str
    attention: str
    feed_forward: str
    linear: Mapping[str, str]
    norms: Mapping[str, str]
    attends: str = ""
    reads: Mapping[str, str] = field(default_factory=dict)
    cross: str = ""
    cross_attends: str = ""


@dataclass(frozen=True)
class Family:
    """One model type.

    Attributes:
        embedding: path of the token embedding (of the patches, in an image encoder).
        final_norm: path of the norm behind the last block; empty where the last block ends in its own.
        stacks: one, or of an encoder-decoder the encoder's and the decoder's.
        kind: what attends to what.
        body: path of the body inside the model with its head; a model without a head is the body itself.
        registry: whether its attention goes through transformers' registry, so that prefixes and packed rows can.
        positions: the rule of its `position_ids`; None where the body takes none.
        cloze: paths of the modules that turn a state into scores of the words at a mask, in order.
    """

    embedding: str
    final_norm: str
    stacks: tuple[Stack, ...]
    kind: Kind = "decoder"
    body: str = ""
    registry: bool = True
    positions: PositionRule | None = "counted"
    cloze: tuple[str, ...] = ()
