"""The matrix form of attention's gradient against finite differences and against SDPA's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from keeptune.engine.batch import pack
from keeptune.engine.matrix_gradient import attend
from keeptune.engine.packed import packed_hidden
from keeptune.engine.segments import causal_band
from tests.engine.test_packed import rows_of
from tests.tiny_models import tiny_model

MASKS = [None, causal_band(5, 5, 2, torch.device("cpu"))]


def states(dtype: torch.dtype, length: int = 5) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, length, 4, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("mask", MASKS)
def test_gradients_equal_finite_differences(mask):
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, mask, 0.7), states(torch.float64))


@pytest.mark.parametrize("mask", MASKS)
def test_outputs_are_those_of_sdpa_bitwise(mask):
    q, k, v = states(torch.bfloat16)
    expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    assert torch.equal(attend(q, k, v, mask, None), expected)


@pytest.mark.parametrize("name", ["llama", "mistral, window"])
def test_bfloat16_gradients_are_as_close_to_float32_as_those_of_separate_forwards(name):
    rows = rows_of([6, 13, 13, 20])

    def gradients(model, packed: bool) -> torch.Tensor:
        if packed:
            hidden = packed_hidden(model, pack(rows))
        else:
            hidden = torch.cat([model.base_model(torch.tensor([row.tokens])).last_hidden_state[0] for row in rows])
        hidden.float().square().mean().backward()
        model.lm_head.weight.grad = None
        return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])

    exact = gradients(tiny_model(name), packed=False)
    ours = gradients(tiny_model(name).bfloat16(), packed=True)
    reference = gradients(tiny_model(name).bfloat16(), packed=False)
    assert (ours - exact).norm() <= 1.2 * (reference - exact).norm()
    assert (ours - exact).norm() < 0.1 * exact.norm()


def test_outputs_do_not_depend_on_whether_gradients_are_taken():
    model = tiny_model("llama").bfloat16()
    batch = pack(rows_of([6, 13, 13, 20]))
    with torch.no_grad():
        without = packed_hidden(model, batch)
    assert torch.equal(packed_hidden(model, batch), without)
