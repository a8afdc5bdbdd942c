"""The DPO step's measurement: its pairs, what they need, and the same start for everybody."""

from __future__ import annotations

import torch

from benchmarks import flops, preference, workload
from benchmarks.peers.same_start import same_start
from benchmarks.peers.session import encoded
from keeptune.engine.batch import IGNORED
from keeptune.engine.shared_rows import pack_shared
from keeptune.methods import LoRA
from keeptune.stages._masters import Masters
from tests.tiny_models import tiny_model


def test_a_pair_needs_its_prompt_once():
    pairs = preference.draw_pairs(8, 0)
    rows = encoded(pairs)
    assert pairs == preference.draw_pairs(8, 0)
    assert [list(row.endings[1].tokens) for row in rows] == [one["prompt_ids"] + one["rejected_ids"] for one in pairs]
    shape, batch = flops.Shape.of(workload.SHAPE), pack_shared(rows)
    batch = batch.read_at((batch.targets != IGNORED).nonzero()[:, 0]).until_read()
    seen = flops.causal_pairs(batch.lengths)
    for segment, parent in enumerate(batch.parents):
        seen += batch.lengths[segment] * batch.lengths[parent] if parent >= 0 else 0
    read_pairs = sum(int(place) + 1 for place in batch.positions[batch.targets != IGNORED])
    work = flops.Work(len(batch.tokens), seen, batch.learned, read_pairs)
    wanted = flops.low_rank_step(shape, work, preference.RANK) + flops.forward(shape, work)
    assert preference.useful(pairs) == wanted


def test_padding_is_none_where_all_answers_are_as_long():
    pair = {"prompt_ids": [3, 4, 5], "chosen_ids": [6, 2], "rejected_ids": [7, 2]}
    assert preference.padding([pair] * 4) == (4 * 2 * 5) / (4 * (5 + 5 - 2))


def test_an_update_starts_alike_whoever_names_it():
    model = tiny_model("llama")
    LoRA(rank=4).attach(model, "one")
    own = Masters(model).named
    theirs = [
        (f"base_model.model.{name.rpartition(':')[2].replace('/', '.')}.default.weight", torch.empty_like(tensor))
        for name, tensor in own
        if name.endswith("lora_A")
    ]
    same_start(own)
    same_start(theirs)
    ours = [tensor for name, tensor in own if name.endswith("lora_A")]
    assert len(ours) == len(theirs) > 1
    for tensor, (_, other) in zip(ours, theirs, strict=True):
        assert torch.equal(tensor, other)
    assert not torch.equal(ours[0], ours[1])
