"""A cache with room behind its keys: the same numbers as transformers' own, and no copy of what is there."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from keeptune.engine.growing_cache import GrowingLayer, growing_cache
from tests.engine.adapted import adapted


def states(length, rows=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, length, 4, generator=generator), torch.randn(rows, 2, length, 4, generator=generator)


def both(steps):
    """A layer of transformers and ours after the same steps."""
    config = adapted().config
    layers = DynamicCache(config=config).layers[0], growing_cache(config).layers[0]
    for step in steps:
        for layer in layers:
            step(layer)
        assert torch.equal(layers[0].keys, layers[1].keys)
        assert torch.equal(layers[0].values, layers[1].values)
        assert layers[0].get_seq_length() == layers[1].get_seq_length()
    return layers[1]


def test_it_holds_what_a_dynamic_cache_holds():
    both(
        [
            lambda layer: layer.update(*states(5)),
            *(lambda layer, seed=seed: layer.update(*states(1, seed=seed)) for seed in range(1, 9)),
            lambda layer: layer.batch_select_indices(torch.tensor([2, 0])),
            lambda layer: layer.update(*states(1, rows=2, seed=20)),
            lambda layer: layer.crop(-4),
            lambda layer: layer.update(*states(2, rows=2, seed=21)),
            lambda layer: layer.batch_repeat_interleave(2),
            lambda layer: layer.update(*states(1, rows=4, seed=22)),
        ]
    )


def test_a_step_writes_its_token_and_copies_nothing():
    layer = both([lambda layer: layer.update(*states(8))])
    place = layer.keys.data_ptr()
    for seed in range(4):
        layer.update(*states(1, seed=seed))
        assert layer.keys.data_ptr() == place


def test_layers_with_a_window_stay_transformers_own():
    cache = growing_cache(adapted("mistral, window").config)
    own = DynamicCache(config=adapted("mistral, window").config)
    assert [type(layer) for layer in cache.layers] == [type(layer) for layer in own.layers]
    assert all(isinstance(layer, GrowingLayer) for layer in growing_cache(adapted().config).layers)
