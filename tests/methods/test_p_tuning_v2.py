"""P-tuning v2 is the prefix of PEFT that has no network, and keeptune's own prefix."""

from __future__ import annotations

import torch
from peft import PeftModel
from torch.testing import assert_close

from keeptune.methods import Prefix, PTuningV2, load_adapter, save_adapter
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))


def test_it_is_a_prefix_without_a_network():
    ours, prefix = tiny_model("llama"), tiny_model("llama")
    PTuningV2(length=4).attach(ours, seed=2)
    Prefix(length=4, hidden=None).attach(prefix, seed=2)
    assert torch.equal(ours(TOKENS).logits, prefix(TOKENS).logits)
    assert not torch.equal(ours.train()(TOKENS).logits, prefix.train()(TOKENS).logits)  # dropout


def test_it_starts_normal():
    model = tiny_model("llama")
    PTuningV2(length=400).attach(model)
    keys = model.keeptune.adapter("default").tensors()["0.prefix_keys"]
    assert abs(keys.std() - 1) < 0.03
    assert abs(keys.mean()) < 0.03


def test_peft_reads_its_file_with_its_logits(tmp_path):
    ours = tiny_model("llama")
    PTuningV2(length=4).attach(ours, "ana")
    save_adapter(ours, "ana", tmp_path)
    theirs = PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    assert_close(theirs(TOKENS).logits, ours(TOKENS).logits, **CLOSE)
    fresh = tiny_model("llama")
    load_adapter(fresh, tmp_path, "ana")
    assert torch.equal(fresh(TOKENS).logits, ours(TOKENS).logits)
    assert fresh.keeptune.adapter("ana").methods == (PTuningV2(length=4, positions="shift").prefix,)  # the file says it
