"""P-tuning v2 is the prefix of its authors and of PEFT, and keeptune's own; with a head it classifies."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import save_file
from torch.testing import assert_close

from keeptune.data.encoder import Encoded
from keeptune.engine.batch import pack
from keeptune.engine.readout import answers
from keeptune.methods import Head, Prefix, PTuningV2, attach, load_adapter, save_adapter
from keeptune.methods._prefix_deltas import LayerPrefix, Stem
from tests.oracles import prompt_encoders as oracle
from tests.oracles.tiny_weights import drawn
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


def authors_size():
    """A BERT as large as the authors' encoder was made for."""
    return tiny_model(
        "bert", hidden_size=oracle.WIDTH, num_attention_heads=oracle.HEADS, num_hidden_layers=oracle.LAYERS
    )


def assert_made_as_theirs(model, name):
    """Keys and values of each layer are what their models split off what their encoder makes."""
    made = torch.tensor(json.loads(oracle.FIXTURE.read_text())[name], dtype=torch.float64)
    layers = [delta for _, delta, _ in model.keeptune.adapter("ana").placed[0] if isinstance(delta, LayerPrefix)]
    assert len(layers) == oracle.LAYERS
    for number, delta in enumerate(layers):
        for side, values in enumerate(delta.keys_values()):
            assert_close(values.flatten(1), made[2 * number + side], rtol=0, atol=1e-11)


def test_the_authors_table_in_a_file_is_theirs_layer_by_layer(tmp_path):
    """`tests/oracles/prompt_encoders.py` split it with their code; PEFT writes such a table as it is."""
    config = PrefixTuningConfig(num_virtual_tokens=oracle.LENGTH, task_type="FEATURE_EXTRACTION")
    get_peft_model(authors_size(), config).save_pretrained(tmp_path)
    table = drawn("embedding.weight", (oracle.LENGTH, 2 * oracle.LAYERS * oracle.WIDTH))
    save_file({"prompt_embeddings": table}, tmp_path / "adapter_model.safetensors")
    model = authors_size()
    load_adapter(model, tmp_path, "ana")
    model.keeptune.double()
    assert_made_as_theirs(model, "p_tuning_v2")


def test_the_network_of_a_prefix_is_the_authors():
    model = authors_size()
    Prefix(length=oracle.LENGTH, hidden=oracle.HIDDEN).attach(model, "ana")
    model.keeptune.double()
    width, outputs = oracle.WIDTH, 2 * oracle.LAYERS * oracle.WIDTH
    theirs = {"weight": drawn("trans.2.weight", (outputs, oracle.HIDDEN)), "bias": drawn("trans.2.bias", (outputs,))}
    deltas = [delta for _, delta, _ in model.keeptune.adapter("ana").placed[0]]
    (stem,) = [delta for delta in deltas if isinstance(delta, Stem)]
    with torch.no_grad():
        stem.embedding.copy_(drawn("embedding.weight", (oracle.LENGTH, width)))
        stem.down.copy_(drawn("trans.0.weight", (oracle.HIDDEN, width)))
        stem.down_bias.copy_(drawn("trans.0.bias", (oracle.HIDDEN,)))
        for number, delta in enumerate(delta for delta in deltas if isinstance(delta, LayerPrefix)):
            rows = slice(2 * number * width, (2 * number + 2) * width)
            delta.up.copy_(theirs["weight"][rows])
            delta.up_bias.copy_(theirs["bias"][rows])
    assert_made_as_theirs(model, "p_tuning_v2, with a network")


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_its_head_is_saved_with_it_and_answers_alike_from_the_file(tmp_path, family):
    """The paper's form: keys and values in every layer, and a linear head that a file must not forget."""
    model = tiny_model(family)
    attach(model, [PTuningV2(length=4), Head(labels=["no", "yes", "maybe"])], "ana")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    rows = [Encoded(str(row), "task", tuple(tokens), (False,) * 9) for row, tokens in enumerate(TOKENS.tolist())]
    expected = answers(model, pack(rows))
    save_adapter(model, "ana", tmp_path)
    fresh = tiny_model(family)
    load_adapter(fresh, tmp_path, "bo", trainable=True)
    found = answers(fresh, pack(rows))
    for one, other in zip(found, expected, strict=True):
        assert one.labels == other.labels == ("no", "yes", "maybe")
        assert torch.equal(one.scores, other.scores)
    assert len({tuple(answer.scores.tolist()) for answer in expected}) == len(rows)
    assert sum(p.numel() for p in fresh.keeptune.parameters()) == sum(p.numel() for p in model.keeptune.parameters())
    sum(answer.scores.square().sum() for answer in found).backward()
    assert all(p.grad.abs().sum() > 0 for p in fresh.keeptune.parameters())
