"""NF4 against its definition: the quantiser in three lines, the 8-bit scales, products, and the way back."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys

import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.testing import assert_close

from keeptune.core.errors import MissingDependency, PlanError
from keeptune.models import bitsandbytes_library
from keeptune.models.anatomy import anatomy_of
from keeptune.models.fingerprint import fingerprint
from keeptune.models.load import load, widen_loaded
from keeptune.models.quantize import Linear4bit, put_into_4_bits, quantization_of, widen
from tests.models.test_load import save_model
from tests.tiny_models import VOCABULARY, inputs_of, tiny_model

TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
FAMILIES = ["llama, biases, one key head, tied", "gemma2", "phi3", "gpt2", "gpt_neox", "bert", "t5", "bart", "vit"]


def levels() -> torch.Tensor:
    """The paper's 16 levels: quantiles of the normal distribution on each side of an exact zero, scaled to 1."""
    edge = 0.5 * (1 / 32 + 1 / 30)
    positive = norm.ppf(torch.linspace(1 - edge, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -norm.ppf(torch.linspace(1 - edge, 0.5, 8, dtype=torch.float64)[:-1])
    found = torch.tensor(sorted([*positive, *negative, 0.0]), dtype=torch.float64)
    return (found / found.max()).float()


def byte_levels() -> torch.Tensor:
    """The 256 values of the 8-bit dynamic float: seven decades, each cut twice as finely as the one below it."""
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float64)
        for middle in ((edges[1:] + edges[:-1]) / 2 * 10.0 ** (exponent - 6)).tolist():
            values += [middle, -middle]
    return torch.tensor(sorted(values)).float()


def weights(rows=24, columns=128, dtype=torch.float32) -> nn.Linear:
    linear = nn.Linear(columns, rows, dtype=dtype)
    nn.init.normal_(linear.weight, 0, 0.02, generator=torch.Generator().manual_seed(1))
    return linear


def narrow(linear: nn.Linear) -> Linear4bit:
    return Linear4bit(linear, torch.device("cpu"))


def codes(quantised: Linear4bit) -> torch.Tensor:
    packed = quantised.weight.view(torch.uint8).flatten().long()
    return torch.stack([packed >> 4, packed & 15], dim=1).flatten()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_codes_are_those_of_a_quantiser_in_three_lines(dtype):
    linear = weights(dtype=dtype)
    blocks = linear.weight.detach().float().view(-1, 64)
    scaled = blocks / blocks.abs().amax(1, keepdim=True)
    expected = (scaled.flatten()[:, None] - levels()).abs().argmin(1)
    assert torch.equal(codes(narrow(linear)), expected)


def test_the_scales_are_kept_in_eight_bits_around_their_mean():
    linear = weights(rows=300)
    quantised = narrow(linear)
    largest = linear.weight.detach().view(-1, 64).abs().amax(1)
    offset = largest.mean()
    second = torch.stack([part.abs().max() for part in (largest - offset).split(256)])
    per_block = second.repeat_interleave(256)[: len(largest)]
    closest = ((largest - offset) / per_block)[:, None].sub(byte_levels()).abs().argmin(1)
    scale = byte_levels()[closest] * per_block + offset
    expected = (levels()[codes(quantised)].view(-1, 64) * scale[:, None]).view_as(linear.weight)
    assert_close(quantised.wide(), expected, rtol=1e-6, atol=1e-8)


def test_a_weight_takes_0_516_bytes():
    linear = weights(rows=256, columns=512)
    assert narrow(linear).stored_bytes() / linear.weight.numel() == 0.5 + 1 / 64 + 4 / (64 * 256)


def test_output_and_gradients_are_those_of_the_wide_matrix_and_no_wide_copy_is_kept():
    quantised, kept = narrow(weights()), []
    stock = copy.deepcopy(quantised).widened()
    x = torch.randn(5, 128, requires_grad=True)
    y = x.detach().clone().requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = quantised(x)
    output.square().sum().backward()
    stock(y).square().sum().backward()
    assert torch.equal(output, stock(y))
    assert_close(x.grad, y.grad)
    assert_close(quantised.bias.grad, stock.bias.grad)
    assert kept == []


@pytest.mark.parametrize("family", FAMILIES)
def test_widened_it_is_a_stock_model_with_the_same_outputs_and_only_the_blocks_matrices_were_rounded(family):
    base, model = tiny_model(family), tiny_model(family)
    put_into_4_bits(model)
    rounded = set(anatomy_of(base).linear_paths())
    for name, parameter in base.named_parameters():
        if name.removesuffix(".weight") not in rounded:
            assert torch.equal(model.get_parameter(name), parameter), name
    assert quantization_of(model) == "nf4"
    inputs = inputs_of(family)
    output = model(**inputs)[0]
    assert not torch.equal(output, base(**inputs)[0])
    widen(model)
    assert quantization_of(model) is None
    assert {n: type(m) for n, m in model.named_modules()} == {n: type(m) for n, m in base.named_modules()}
    assert torch.equal(model(**inputs)[0], output)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in base.named_parameters()}


def test_another_dtype_of_the_model_leaves_codes_and_scales_alone():
    model = tiny_model("llama")
    put_into_4_bits(model)
    path = anatomy_of(model).linear_paths()[0]
    before = model.get_submodule(path).wide()
    moved = copy.deepcopy(model).bfloat16()
    assert torch.equal(moved.get_submodule(path).wide(), before)
    assert moved(TOKENS).logits.dtype == torch.bfloat16


def test_loading_quantises_and_the_fingerprint_knows(tmp_path):
    folder = save_model(tmp_path / "model")
    found = [load(folder, dtype="float32", device="cpu", quantize=kind) for kind in ("nf4", "nf4", None)]
    assert [loaded.quantize for loaded in found] == ["nf4", "nf4", None]
    assert found[0].fingerprint == found[1].fingerprint == fingerprint(found[0].model)
    assert found[0].fingerprint != found[2].fingerprint


def test_the_original_weights_come_back_from_the_files(tmp_path):
    loaded = load(save_model(tmp_path / "model"), dtype="float32", device="cpu", quantize="nf4")
    widen_loaded(loaded.model, "original")
    assert loaded.model.loaded.quantize is None
    expected = tiny_model("llama").state_dict()
    assert loaded.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())


def test_an_unknown_quantisation_and_a_missing_library_are_refused_before_loading(tmp_path, monkeypatch):
    folder = save_model(tmp_path / "model")
    with pytest.raises(PlanError) as caught:
        load(folder, quantize="int3")
    assert caught.value.code == "E-MODEL-QUANTIZE"
    bitsandbytes_library._imported.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingDependency, match=r"keeptune\[quant\]"):
        load(folder, quantize="nf4")
    bitsandbytes_library._imported.cache_clear()


PLANTED = """
def get_kernel(*args, **kwargs):
    raise SystemExit("a kernel was asked for")
"""


def test_importing_the_library_fetches_nothing_even_where_it_could(tmp_path):
    (tmp_path / "kernels.py").write_text(PLANTED)
    program = (
        "from keeptune.models.bitsandbytes_library import bitsandbytes_for; import sys; bitsandbytes_for('a test');"
        "assert 'kernels' not in sys.modules; import kernels; assert kernels.get_kernel"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert logging.getLogger("bitsandbytes.backends.cpu.ops").level == logging.NOTSET
