"""`dtype: auto` is bfloat16 where the device has units for it, and a recipe stores what it came to."""

from __future__ import annotations

import pytest
import torch

from keeptune.core.errors import PlanError
from keeptune.core.spec import validate
from keeptune.models import precision
from keeptune.models.load import load, load_pair
from keeptune.models.precision import fastest_dtype, find_dtype
from keeptune.recipes.recipe import Model
from tests.models.test_load import save_model

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


def processor(monkeypatch, *, avx512_bf16=False, amx=False):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


@pytest.mark.parametrize("units", [{"avx512_bf16": True}, {"amx": True}])
def test_a_processor_with_bfloat16_units_uses_them(monkeypatch, units):
    processor(monkeypatch, **units)
    assert fastest_dtype(CPU) is torch.bfloat16


def test_a_processor_without_them_stays_in_float32(monkeypatch):
    processor(monkeypatch)
    assert fastest_dtype(CPU) is torch.float32


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_a_gpu_uses_them_from_ampere_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fastest_dtype(GPU) is expected


def test_a_name_is_that_dtype_on_every_device(monkeypatch):
    processor(monkeypatch)
    assert find_dtype("bfloat16", CPU) is torch.bfloat16
    assert find_dtype(torch.float64, CPU) is torch.float64
    assert find_dtype("auto", CPU) is torch.float32


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(PlanError, match="float17") as caught:
        find_dtype("float17", CPU)
    assert all(name in caught.value.fix for name in ("auto", *precision.DTYPES))


def test_a_recipe_decides_auto_once_and_stores_the_dtype(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    processor(monkeypatch, amx=True)
    assert validate(Model, {"dtype": "auto"}).checkpoint.dtype == "bfloat16"
    processor(monkeypatch)
    assert validate(Model, {"dtype": "auto"}).checkpoint.dtype == "float32"
    assert validate(Model, {"dtype": "bfloat16"}).checkpoint.dtype == "bfloat16"


@pytest.mark.parametrize(("amx", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_model_is_loaded_in_the_fastest_dtype_unless_another_is_asked_for(tmp_path, monkeypatch, amx, expected):
    processor(monkeypatch, amx=amx)
    folder = save_model(tmp_path, "llama")
    assert load(folder, device="cpu").model.dtype is expected
    assert load_pair(folder, device="cpu")[0].dtype is expected
    assert load(folder, dtype="float16", device="cpu").model.dtype is torch.float16
