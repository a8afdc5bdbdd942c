"""Where checkpoints are opened: adapters must fit their base, unless a user forces them."""

from __future__ import annotations

import pytest

from keeptune.core.checkpoint import AdapterRef, Checkpoint
from keeptune.core.errors import ModelError
from keeptune.methods import LoRA, save_adapter
from keeptune.recipes.workshop import Workshop
from tests.models.test_load import save_model
from tests.tiny_models import tiny_model


def test_an_adapter_of_another_base_is_opened_only_by_force(tmp_path):
    other = tiny_model("llama", seed=1)
    LoRA(rank=2).attach(other, "ana")
    save_adapter(other, "ana", tmp_path / "ana")
    base = save_model(tmp_path / "model")
    checkpoint = Checkpoint(str(base), dtype="float32", adapters=(AdapterRef("ana", tmp_path / "ana"),))
    with pytest.raises(ModelError) as caught:
        Workshop(device="cpu").subject(checkpoint)
    assert caught.value.code == "E-ADAPTER-BASE"
    assert "ana" in Workshop(force=True, device="cpu").subject(checkpoint).model.keeptune
