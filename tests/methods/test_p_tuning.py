"""P-tuning against the authors' encoder, against PEFT's encoder and files, and against the published count."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, PromptEncoder, PromptEncoderConfig, get_peft_model
from torch.testing import assert_close

from keeptune.core.shape import ModelShape
from keeptune.methods import Prompt, PTuning, load_adapter, save_adapter
from keeptune.methods._encoded_prompt import EncodedPrompt
from tests.oracles import prompt_encoders as oracle
from tests.oracles.tiny_weights import drawn
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def right_padded():
    tokens = torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(5))
    mask = (torch.arange(7) < torch.tensor([[4], [7], [2]])).long()
    return {"input_ids": tokens * mask, "attention_mask": mask}


def peft_config(encoder):
    return PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=4,
        encoder_hidden_size=16,
        encoder_reparameterization_type=encoder.upper(),
    )


def test_the_encoder_is_the_authors():
    """`tests/oracles/prompt_encoders.py` made the tokens with their code, from the same weights."""
    encoder = EncodedPrompt(oracle.LENGTH, oracle.WIDTH, oracle.WIDTH // 2, "lstm").double()
    theirs = {"vectors": "embedding.weight"}
    with torch.no_grad():
        for key, parameter in encoder.named_parameters():
            name = theirs.get(key, key.replace("lstm.", "lstm_head.").replace("mlp.", "mlp_head."))
            parameter.copy_(drawn(name, tuple(parameter.shape)))
    expected = json.loads(oracle.FIXTURE.read_text())["p_tuning"]
    assert_close(encoder.virtual(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-11)


def test_as_wide_as_the_model_it_is_the_encoder_of_the_authors_few_shot_tasks():
    """PT-Fewshot/pet/wrapper.py: LSTM(D, D, 2 layers, both ways), Linear(2 D, D), ReLU, Linear(D, D)."""
    encoder = EncodedPrompt(5, 8, 8, "lstm")
    encoder.start(torch.Generator().manual_seed(2))
    lstm = torch.nn.LSTM(input_size=8, hidden_size=8, num_layers=2, bidirectional=True, batch_first=True)
    mlp = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
    lstm.load_state_dict(encoder.lstm.state_dict())
    mlp.load_state_dict(encoder.mlp.state_dict())
    assert_close(encoder.virtual(), mlp(lstm(encoder.vectors[None])[0]).squeeze(), **CLOSE)


@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
def test_the_encoder_is_pefts(encoder):
    config = peft_config(encoder)
    config.token_dim, config.num_transformer_submodules = 32, 1
    theirs = PromptEncoder(config)
    model = tiny_model("llama")
    PTuning(length=4, encoder=encoder, hidden=16).attach(model)
    delta = model.keeptune.adapter("default").placed[0][0].delta
    renamed = {"vectors": "embedding.weight"}
    values = theirs.state_dict()
    delta.load_state_dict(
        {
            key: values[renamed.get(key, key.replace("lstm.", "lstm_head.").replace("mlp.", "mlp_head."))]
            for key in delta.state_dict()
        }
    )
    assert_close(delta.virtual(), theirs(torch.arange(4)), **CLOSE)
    assert len(values) == len(delta.state_dict())


@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
def test_a_folder_of_peft_loads_with_its_logits_and_ours_loads_in_peft(tmp_path, encoder):
    theirs = get_peft_model(tiny_model("llama"), peft_config(encoder)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    batch = right_padded()
    mask = batch["attention_mask"].bool()
    ours = tiny_model("llama")
    load_adapter(ours, tmp_path / "theirs", "ana")
    assert_close(ours(**batch).logits[mask], theirs(**batch).logits[:, 4:][mask], **CLOSE)
    trained = tiny_model("llama")
    PTuning(length=4, encoder=encoder, hidden=16).attach(trained, "bo", seed=3)
    save_adapter(trained, "bo", tmp_path / "ours")
    again = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "ours").eval()
    assert_close(again(**batch).logits[:, 4:][mask], trained(**batch).logits[mask], **CLOSE)


def test_the_file_is_a_prompt_without_the_encoder(tmp_path):
    model = tiny_model("gpt2")
    PTuning(length=4).attach(model, "ana")
    save_adapter(model, "ana", tmp_path)
    fresh = tiny_model("gpt2")
    load_adapter(fresh, tmp_path, "ana")
    assert torch.equal(fresh(**right_padded()).logits, model(**right_padded()).logits)
    assert fresh.keeptune.adapter("ana").methods == (Prompt(length=4),)
    assert [p.shape for p in fresh.keeptune.parameters()] == [(4, 32)]


def test_the_count_is_that_of_the_papers_encoder():
    """D = 768, p = 9, two bidirectional layers of 384: 8,278,272 trained, 6,912 kept."""
    config = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12}
    assert PTuning(length=9).cost(ModelShape.from_config(config))[:2] == (8_278_272, 4 * 6_912)


@pytest.mark.parametrize("settings", [{"encoder": "mlp"}, {"encoder": "mlp", "hidden": 5}, {"hidden": 5}, {}])
def test_the_count_follows_the_settings(settings):
    model, method = tiny_model("llama"), PTuning(length=3, **settings)
    method.attach(model)
    counted = sum(p.numel() for p in model.keeptune.parameters())
    assert method.cost(ModelShape.from_config(model.config.to_dict())).trainable_parameters == counted
