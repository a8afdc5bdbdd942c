"""Lying safetensors headers are refused by arithmetic, before anything of their claimed size is allocated."""

from __future__ import annotations

import contextlib
import json
import tracemalloc

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeptune.core.errors import ModelError
from keeptune.models.safetensors_header import tensor_shapes


def written(path, header, data: bytes = b"", length: int | None = None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_shapes_are_those_of_the_library(tmp_path):
    tensors = {"a": torch.ones(2, 3), "b": torch.ones(4).bfloat16(), "none": torch.ones(0, 5), "scalar": torch.ones(())}
    safetensors.torch.save_file(tensors, tmp_path / "x", metadata={"format": "pt"})
    assert tensor_shapes(tmp_path / "x") == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": entry([2**60], 0, 2**62)}, b""),
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        ({"a": entry([2], 4, 12)}, bytes(12)),
        ({"a": entry([2], 0, 8)}, bytes(12)),
        ({"a": entry([2], 0, 8)}, bytes(4)),
        ({"a": entry([3], 0, 8)}, bytes(8)),
        ({"a": entry([-2], 0, 8)}, bytes(8)),
        ({"a": entry([2], 8, 0)}, bytes(8)),
        ({"a": entry([2.0], 0, 8)}, bytes(8)),
        ({"a": entry([True], 0, 4)}, bytes(4)),
        ({"a": entry([2], 0, 8, "F31")}, bytes(8)),
        ({"a": 3}, b""),
        ({"a": {"dtype": "F32"}}, b""),
        (b"[]", b""),
        (b"{", b""),
        (b"[" * 100_000, b""),
    ],
)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(tmp_path, header, data):
    with pytest.raises(ModelError) as caught:
        tensor_shapes(written(tmp_path / "x", header, data))
    assert caught.value.code == "E-MODEL-WEIGHTS"
    assert caught.value.where["file"] == str(tmp_path / "x")


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 3])
def test_a_lying_header_length_allocates_nothing(tmp_path, length):
    path = written(tmp_path / "x", {"a": entry([2], 0, 8)}, bytes(8), length=length)
    tracemalloc.start()
    with pytest.raises(ModelError):
        tensor_shapes(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"1234567"])
def test_a_file_without_a_header_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ModelError):
        tensor_shapes(tmp_path / "x")


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("random") / "x"
    path.write_bytes(content)
    with contextlib.suppress(ModelError):
        tensor_shapes(path)
