"""Which kernels serve: those of the device at hand, if they are there and agree with their formulas; else none."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from keeptune.engine import kernels
from keeptune.engine.native import kernels as native

CUDA = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU and Triton, as far as the choice can tell."""
    made = SimpleNamespace(Kernels=lambda: "those of a GPU", READ=(torch.bfloat16,), agrees=True)
    monkeypatch.setitem(sys.modules, "keeptune.engine.gpu.kernels", made)
    monkeypatch.setattr("keeptune.engine.gpu.kernels", made, raising=False)
    monkeypatch.setattr(kernels, "agree", lambda *_: made.agrees)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.delenv(kernels.SWITCH, raising=False)
    kernels._of_gpu.cache_clear()
    yield made
    kernels._of_gpu.cache_clear()


def test_a_gpu_has_its_own(gpu):
    assert kernels.kernels_of(CUDA, torch.bfloat16) == "those of a GPU"


def test_kernels_that_do_not_agree_with_their_formulas_do_not_serve(gpu):
    gpu.agrees = False
    assert kernels.kernels_of(CUDA, torch.bfloat16) is None


def test_a_dtype_that_they_do_not_read_is_left_to_torch(gpu):
    assert kernels.kernels_of(CUDA, torch.float64) is None


def test_only_the_gpu_that_torch_works_on_is_served(gpu):
    assert kernels.kernels_of(torch.device("cuda", 1), torch.bfloat16) is None


def test_the_switch_leaves_them_out(gpu, monkeypatch):
    monkeypatch.setenv(kernels.SWITCH, "0")
    assert kernels.kernels_of(CUDA, torch.bfloat16) is None


@pytest.mark.parametrize("error", [ImportError("no triton"), RuntimeError("no C compiler"), AssertionError("?")])
def test_whatever_goes_wrong_leaves_the_work_to_torch(gpu, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(kernels, "agree", fails)
    assert kernels.kernels_of(CUDA, torch.bfloat16) is None


def test_a_processor_has_those_in_c():
    x = torch.ones(2, 3)
    assert kernels.kernels_of(x.device, x.dtype) is native.compiled(x.dtype)
    assert kernels.serving(x) is native.compiled(x.dtype)


def test_another_kind_of_device_has_none():
    assert kernels.kernels_of(torch.device("meta"), torch.float32) is None
