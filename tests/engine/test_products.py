"""Products by oneDNN: torch's own to rounding, where the processor says so, in steps that learn and nowhere else."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from keeptune.engine import products
from keeptune.engine.batch import pack
from keeptune.engine.head import Head, head_of
from keeptune.engine.packed import packed_hidden
from keeptune.losses import _head_rows
from keeptune.losses._row_losses import row_losses
from keeptune.losses.next_token import next_token
from keeptune.methods import LoRA
from tests.engine.test_packed import LENGTHS, rows_of
from tests.tiny_models import tiny_model

AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"


@pytest.fixture(params=[True, False], ids=["onednn", "torch"])
def way(request, monkeypatch):
    monkeypatch.setattr(products, "faster_by_onednn", lambda: request.param)
    return request.param


@pytest.fixture
def counted(monkeypatch):
    calls, real = [], products._by_onednn
    monkeypatch.setattr(products, "_by_onednn", lambda *given: calls.append(given[0].shape) or real(*given))
    return calls


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(32, 48, 40), (45, 64, 176), (130, 512, 1408)])
def test_products_are_those_in_float64(way, counted, rows, inputs, outputs):
    draw = torch.Generator().manual_seed(0)
    shapes = ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs), (rows, inputs))
    x, weight, bias, gradient, to = (torch.randn(*shape, generator=draw) for shape in shapes)
    wide = [each.double() for each in (x, weight, bias, gradient, to)]
    found = [
        products.linear(x, weight, bias),
        products.linear(x, weight),
        products.back(gradient, weight),
        products.add_back(to.clone(), gradient, weight),
    ]
    exact = [wide[0] @ wide[1].T + wide[2], wide[0] @ wide[1].T, wide[3] @ wide[1], wide[4] + wide[3] @ wide[1]]
    for got, expected in zip(found, exact, strict=True):
        assert got.is_contiguous()
        assert (got.double() - expected).norm() <= 1e-6 * expected.norm()
    assert len(counted) == (4 if way else 0)


def test_other_tensors_go_torchs_way(counted, monkeypatch):
    monkeypatch.setattr(products, "faster_by_onednn", lambda: True)
    weight = torch.randn(24, 40)
    for x, weights in (
        (torch.randn(31, 40), weight),
        (torch.randn(64, 40).double(), weight.double()),
        (torch.randn(64, 40).bfloat16(), weight.bfloat16()),
        (torch.randn(40, 64).T, weight),
        (torch.randn(2, 64, 40), weight),
    ):
        assert_close(products.linear(x, weights), torch.nn.functional.linear(x, weights), rtol=0, atol=0)
    assert not counted


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (AMD, True),
        (AMD.replace("avx512f ", ""), False),
        (AMD.replace("AuthenticAMD", "GenuineIntel"), False),
        ("Processor\t: ARMv8\nFeatures\t: asimd bf16\n", False),
    ],
)
def test_the_processor_decides(told, says):
    assert products.of_amd_with_avx512(told) == says


@pytest.fixture
def on_amd(monkeypatch):
    monkeypatch.setattr(products, "Path", lambda _: SimpleNamespace(exists=lambda: True, read_text=lambda: AMD))
    products.faster_by_onednn.cache_clear()
    yield monkeypatch
    products.faster_by_onednn.cache_clear()


def test_it_proves_itself_first(on_amd):
    assert products.faster_by_onednn()
    for faulty in (lambda x, weight, bias: x @ weight.T, lambda *_: torch.ops.mkldnn.of_another_torch()):
        on_amd.setattr(products, "_by_onednn", faulty)
        products.faster_by_onednn.cache_clear()
        assert not products.faster_by_onednn()


def test_it_is_left_out_with_the_kernels(on_amd):
    on_amd.setenv("KEEPTUNE_KERNELS", "0")
    assert not products.faster_by_onednn()


def test_a_step_that_learns_asks_it_and_a_pass_that_measures_does_not(way, counted):
    model = tiny_model("llama", hidden_size=64, head_dim=16)
    LoRA(rank=4).attach(model, "ana")
    batch = pack([row for seed in range(3) for row in rows_of(LENGTHS, seed)])
    with torch.no_grad():
        alone = packed_hidden(model, batch)
    assert not counted
    hidden = packed_hidden(model, batch)
    next_token(hidden, batch.targets, head_of(model)).backward()
    assert bool(counted) == way
    assert_close(hidden.detach(), alone, rtol=1e-5, atol=1e-5)
    if not way:
        assert torch.equal(hidden.detach(), alone)


@pytest.mark.parametrize("loss", [next_token, lambda *given: row_losses(*given).sum()], ids=["rows", "row by row"])
def test_the_head_of_every_loss_is_multiplied_by_it_forward_and_back(way, counted, loss):
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*shape, generator=draw) for shape in ((70, 32), (500, 32)))
    targets = torch.arange(70)
    hidden.requires_grad_()
    wide = hidden.detach().double().requires_grad_()
    torch.nn.functional.cross_entropy(wide @ weight.double().T, targets, reduction="sum").backward()
    loss(hidden, targets, Head(weight)).backward()
    assert counted == ([(70, 32), (70, 500)] if way else [])
    assert (hidden.grad.double() - wide.grad).norm() <= 1e-5 * wide.grad.norm()


@pytest.mark.parametrize("loss", [next_token, lambda *given: row_losses(*given).sum()], ids=["rows", "row by row"])
def test_two_blocks_of_logits_are_never_there_at_once(way, monkeypatch, loss):
    alive, most = set(), [0]
    real = Head.product

    def watched(head, hidden, into=None, *, learns=False):
        gc.collect()
        found = real(head, hidden, into, learns=learns)
        alive.intersection_update({each.data_ptr() for each in gc.get_objects() if isinstance(each, torch.Tensor)})
        alive.add(found.untyped_storage().data_ptr())
        most[0] = max(most[0], len(alive))
        return found

    monkeypatch.setattr(Head, "product", watched)
    hidden = torch.randn(300, 32, requires_grad=True)
    weight = torch.randn(500, 32)
    monkeypatch.setattr(_head_rows, "LOGITS_BYTES", 64 * 500 * 4)
    loss(hidden, torch.arange(300), Head(weight)).backward()
    assert most == [1]
