"""Prompt tuning against PEFT, and its starts against their definitions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from pydantic import ValidationError
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.methods import Prompt, load_adapter, save_adapter
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
WORDS = {" red": [10, 11], " blue": [12], "a b c": [20, 21, 22]}


class Words:
    """A tokenizer of three texts, with two places kept free."""

    all_special_ids = (0, 1, 2)

    def get_vocab(self):
        free = {"[unused0]": 3, "<unused17>": 4}
        return free | {f"w{number}": number for number in range(VOCABULARY) if number not in free.values()}

    def __call__(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return {"input_ids": WORDS.get(text, [])}


@pytest.fixture
def model(monkeypatch):
    model = tiny_model("llama")
    model.loaded = SimpleNamespace(tokenizer=Words(), name="tiny")
    monkeypatch.setattr("keeptune.models.load.loaded_of", lambda model: model.loaded)
    return model


def virtual(model):
    return model.keeptune.adapter("default").tensors()["prompt_embeddings"]


def rows_of(model, ids):
    return model.get_input_embeddings().weight[ids]


def right_padded():
    tokens = torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(5))
    mask = (torch.arange(7) < torch.tensor([[4], [7], [2]])).long()
    return {"input_ids": tokens * mask, "attention_mask": mask}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_a_folder_of_peft_loads_with_its_logits_and_ours_loads_in_peft(tmp_path, family):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    theirs = get_peft_model(tiny_model(family), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    batch = right_padded()
    expected = theirs(**batch).logits[:, 4:]
    ours = tiny_model(family)
    load_adapter(ours, tmp_path / "theirs", "ana")
    found, mask = ours(**batch).logits, batch["attention_mask"].bool()
    assert_close(found[mask], expected[mask], **CLOSE)
    save_adapter(ours, "ana", tmp_path / "ours")
    again = PeftModel.from_pretrained(tiny_model(family), tmp_path / "ours").eval()
    assert_close(again(**batch).logits[:, 4:][mask], expected[mask], **CLOSE)


def test_the_vocabulary_start_draws_different_frequent_rows_and_no_special_or_reserved_ones(model):
    Prompt(length=VOCABULARY - 5).attach(model)
    drawn = {tuple(row.tolist()) for row in virtual(model)}
    assert drawn == {tuple(row.tolist()) for row in rows_of(model, range(5, VOCABULARY))}


def test_more_virtual_tokens_than_the_vocabulary_has_are_drawn_again(model):
    Prompt(length=2 * VOCABULARY).attach(model)
    assert virtual(model).shape == (2 * VOCABULARY, 32)


def test_the_label_start_averages_pieces_and_fills_up(model):
    Prompt(length=3, init="labels", labels=["red", "blue"]).attach(model)
    assert_close(virtual(model)[0], rows_of(model, [10, 11]).mean(0))
    assert torch.equal(virtual(model)[1], rows_of(model, [12])[0])
    assert any(torch.equal(virtual(model)[2], row) for row in rows_of(model, range(3, VOCABULARY)))


def test_labels_that_are_not_listed_are_those_of_the_data(model):
    answers = ["red", "blue", "red"]
    fitted = Prompt(length=2, init="labels").fitted(answers)
    assert fitted.labels == ["blue", "red"]
    fitted.attach(model)
    assert torch.equal(virtual(model)[0], rows_of(model, [12])[0])
    assert Prompt(length=2, init="labels", labels=["red"]).fitted(answers).labels == ["red"]
    assert Prompt(length=2).fitted(answers) == Prompt(length=2)


@pytest.mark.parametrize("labels", [[], ["red", "blue"]])
def test_a_number_of_labels_that_does_not_fit_the_virtual_tokens_is_refused(model, labels):
    with pytest.raises(PlanError) as caught:
        Prompt(length=1, init="labels", labels=labels).attach(model, "one")
    assert caught.value.code == "E-METHOD-INIT"
    assert not hasattr(model, "keeptune")


@pytest.mark.parametrize("length", [2, 5])
def test_the_text_start_copies_the_tokens_of_the_text(model, length):
    Prompt(length=length, init="text", text="a b c").attach(model)
    kept = min(length, 3)
    assert torch.equal(virtual(model)[:kept], rows_of(model, [20, 21, 22])[:kept])


def test_the_scale_of_the_embedding_is_part_of_the_start():
    model = tiny_model("gemma3_text")
    Prompt(length=5).attach(model)
    scaled = model.get_input_embeddings()(torch.arange(VOCABULARY))
    assert all((scaled - row).abs().sum(1).min() == 0 for row in virtual(model))


def test_the_uniform_start_is_symmetric(model):
    Prompt(length=400, init="uniform").attach(model)
    assert virtual(model).abs().max() <= 0.5
    assert abs(virtual(model).mean()) < 0.01


def test_a_label_without_tokens_is_refused(model):
    with pytest.raises(PlanError, match="green"):
        Prompt(length=3, init="labels", labels=["green"]).attach(model)


@pytest.mark.parametrize(
    "settings",
    [{"labels": ["red"]}, {"text": "a b c"}, {"init": "text"}],
)
def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(ValidationError):
        Prompt(**settings)
