"""The store under damage, under a limit, and under several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from keeptune.models.tensor_store import TensorStore


def tensors(value: float = 1.0, size: int = 100) -> dict[str, torch.Tensor]:
    return {"a": torch.full((size,), value), "b": torch.arange(6).reshape(2, 3).to(torch.bfloat16)}


def test_an_entry_is_made_once_and_read_bit_for_bit(tmp_path):
    made = []

    def make():
        made.append(1)
        return tensors(torch.pi)

    for _ in range(3):
        found = TensorStore(tmp_path).once("key", make)
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors(torch.pi).items())
        assert found["b"].dtype is torch.bfloat16
    assert len(made) == 1


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [
    flip,
    lambda path: path.write_bytes(path.read_bytes()[:-5]),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"not a file of tensors at all"),
    lambda path: save_file({"a": torch.zeros(3)}, path),
    lambda path: (path.unlink(), path.mkdir()),
])  # fmt: skip
def test_a_damaged_entry_is_noted_and_never_believed(tmp_path, damage):
    notes = []
    store = TensorStore(tmp_path, note=notes.append)
    store.write("key", tensors())
    damage(tmp_path / "key.safetensors")
    assert store.read("key") is None
    assert len(notes) == 1
    assert "damaged" in notes[0]


def test_after_damage_the_entry_is_whole_again(tmp_path):
    store = TensorStore(tmp_path)
    store.write("key", tensors(2.0))
    flip(tmp_path / "key.safetensors")
    assert torch.equal(store.once("key", lambda: tensors(2.0))["a"], tensors(2.0)["a"])
    assert torch.equal(load_file(tmp_path / "key.safetensors")["a"], tensors(2.0)["a"])


def test_above_the_limit_the_longest_unread_entries_go_first(tmp_path):
    store = TensorStore(tmp_path, limit_bytes=3000)
    for number, key in enumerate("abcd"):
        store.write(key, tensors())
        os.utime(tmp_path / f"{key}.safetensors", (number, number))
    assert store.read("a") is not None
    store.write("e", tensors())
    kept = {path.stem for path in tmp_path.glob("*.safetensors")}
    assert {"a", "e"} <= kept
    assert "b" not in kept
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3000


def test_an_entry_larger_than_the_limit_is_not_kept_but_given(tmp_path):
    store = TensorStore(tmp_path, limit_bytes=100)
    assert torch.equal(store.once("key", tensors)["a"], tensors()["a"])
    assert not list(tmp_path.glob("*"))


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path):
    old, fresh = tmp_path / ".staging-1-key.safetensors", tmp_path / ".staging-2-key.safetensors"
    old.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(old, (1, 1))
    TensorStore(tmp_path).write("other", tensors())
    assert not old.exists()
    assert fresh.exists()


WRITER = """
import sys, torch
from pathlib import Path
from keeptune.models.tensor_store import TensorStore
store = TensorStore(Path(sys.argv[1]), limit_bytes=200_000)
for turn in range(60):
    key = str(turn % 7)
    found = store.once(key, lambda: {"a": torch.full((5000,), float(turn % 7))})
    assert torch.equal(found["a"], torch.full((5000,), float(turn % 7))), turn
"""


def test_processes_that_share_a_folder_never_read_half_an_entry(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    for key in range(7):
        found = TensorStore(tmp_path).read(str(key))
        assert found is None or torch.equal(found["a"], torch.full((5000,), float(key)))
