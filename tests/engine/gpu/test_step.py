"""A whole pass of the model with the kernels of a GPU, against torch's operators."""

from __future__ import annotations

import pytest
import torch

from keeptune.engine.batch import pack
from keeptune.engine.gpu.kernels import Kernels
from keeptune.engine.head import head_of
from keeptune.engine.packed import packed_hidden
from keeptune.losses.next_token import next_token
from tests.engine.gpu import DEVICE
from tests.engine.native.test_step import model_of
from tests.engine.test_packed import LENGTHS, rows_of

NAMES = ("norm", "norm_back", "gated", "gated_back", "rotate", "next_token")


@pytest.fixture
def serve(monkeypatch):
    """Serves these kernels, or none, wherever a processor's would serve; gives their calls by name."""

    def start(kernels):
        monkeypatch.setattr("keeptune.engine.kernels.kernels_of", lambda *_: kernels)

    return start


class Counted:
    """The kernels, and how often each was called."""

    def __init__(self):
        self.calls = dict.fromkeys(NAMES, 0)

    def __getattr__(self, name):
        if name not in NAMES:
            raise AttributeError(name)

        def call(*given, **named):
            self.calls[name] += 1
            return getattr(Kernels(), name)(*given, **named)

        return call


def pass_of(model):
    model.zero_grad()
    batch = pack(rows_of(LENGTHS, 0)).to(DEVICE)
    hidden = packed_hidden(model, batch)
    assert model.body_path == "fused"
    loss = next_token(hidden, batch.targets, head_of(model))
    loss.backward()
    return hidden.detach(), loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_values_and_gradients_are_those_of_torch_and_each_kernel_runs(family, serve):
    model = model_of(family).to(DEVICE, torch.float32)
    serve(None)
    expected = pass_of(model)
    kernels = Counted()
    serve(kernels)
    got = pass_of(model)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    layers, more = model.config.num_hidden_layers, 2 if family == "qwen3" else 0
    # As on a processor, and forward too: two norms of each layer and the last one, and those of heads. Heads turn back
    # by torch's operators here, for the gradient of SDPA does not lie densely; that of FlashAttention does.
    expected = {
        "norm": (2 + more) * layers + 1,
        "norm_back": (2 + more) * layers + 1,
        "gated": layers,
        "gated_back": layers,
        "rotate": 2 * layers,
        "next_token": 1,
    }
    assert kernels.calls == expected
    with torch.no_grad():
        packed_hidden(model, pack(rows_of(LENGTHS, 0)).to(DEVICE))
    turned = expected["rotate"] + 2 * layers  # which rounds as torch's operators do
    assert kernels.calls == expected | {"rotate": turned}, "a pass that measures is torch's"
