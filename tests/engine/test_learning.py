"""Which passes run the kernels' forward: those of training and what they are compared with, and no others."""

from __future__ import annotations

import pytest
import torch

from keeptune.engine.batch import pack
from keeptune.engine.learning import beside_training, learns
from keeptune.engine.native import kernels as native
from keeptune.engine.packed import packed_hidden
from keeptune.losses import Loss
from keeptune.methods import LoRA
from keeptune.stages._masters import Masters
from keeptune.stages._reference import Reference
from keeptune.stages._step import Objective
from tests.engine.test_packed import LENGTHS, rows_of
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.skipif(native.compiled(torch.bfloat16) is None, reason="no C compiler here")


def model_of(dtype):
    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }  # heads as wide as kernels want them
    return tiny_model("llama", **sizes).to(dtype).requires_grad_(False)


def test_who_takes_gradients_trains_and_so_does_what_stands_beside():
    assert learns()
    with torch.no_grad():
        assert not learns()
        with beside_training():
            assert learns()
        assert not learns()


@pytest.mark.parametrize("dtype", native.READ, ids=str)
def test_a_model_that_is_measured_runs_none_of_them(dtype, monkeypatch):
    model, batch = model_of(dtype), pack(rows_of(LENGTHS))
    with torch.no_grad(), monkeypatch.context() as patched:
        for name in ("attention", "norm", "gated"):
            patched.setattr(native.Kernels, name, lambda *_: pytest.fail("a kernel ran"))
        packed_hidden(model, batch)


@pytest.mark.parametrize("dtype", native.READ, ids=str)
def test_before_the_first_update_the_model_is_its_reference_bit_by_bit(dtype):
    """And the KL between them is zero to float32's last place, as is what it asks of the adapter."""
    model, rows = model_of(dtype), rows_of(LENGTHS)
    LoRA(rank=4).attach(model, "one")
    reference = Reference(model, {"task": ()}, copied=False)
    batch = pack(rows)
    places = torch.arange(0, len(batch.tokens), 3)
    own = packed_hidden(model, batch).detach()
    assert torch.equal(reference.hidden(batch, places), own[places])
    with torch.no_grad():
        assert not torch.equal(packed_hidden(model, batch), own), "a measured model is computed otherwise"
    goal = Objective(
        model, Masters(model), [Loss.find("kl_to_base")()], {"task": ("one",)}, reference, micro_batch_tokens=10**6
    )
    result = goal.backward(rows)
    assert abs(result.loss) < 1e-7
    assert result.norm < 1e-6
