"""A cache of keys and values with room behind them: a step writes its own token and copies none before it.

The dynamic cache of transformers joins old and new keys in a new tensor at each step: to write n tokens it copies
n^2 / 2.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer


def growing_cache(config: PretrainedConfig) -> DynamicCache:
    """The cache that transformers would make for a decoder; layers with a sliding window stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer, (B, G, T, K) each, as views of buffers that are half as long again when made."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._rooms: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Takes the keys and values of new tokens; gives all there are now."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._behind("keys", self.keys, key_states)
        self.values = self._behind("values", self.values, value_states)
        return self.keys, self.values

    def _behind(self, name: str, old: Tensor, new: Tensor) -> Tensor:
        start = old.shape[-2] if old.numel() else 0
        end, room = start + new.shape[-2], self._rooms.get(name)
        if room is None or room.shape[-2] < end or room.data_ptr() != old.data_ptr():
            rows, groups, _, width = new.shape
            room = self._rooms[name] = new.new_empty(rows, groups, end + end // 2, width)
            if start:
                room[..., :start, :] = old
        room[..., start:end, :] = new
        return room[..., :end, :]
