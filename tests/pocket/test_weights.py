"""The embedded model is a plain transformers folder of the promised size and format."""

from importlib.resources import files

import pytest

WEIGHTS = files("keeptune.pocket") / "weights"
TEXT = "It’s 1,234 — naïve\n\tcode {x}  ✓ <tag>"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(WEIGHTS))


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(WEIGHTS)).eval()


def test_the_weights_fit_the_package():
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 12_000_000


def test_the_model_is_the_promised_llama(model):
    import torch

    assert model.config.model_type == "llama"
    assert model.dtype == torch.bfloat16
    assert model.config.max_position_embeddings == 1024
    assert 5.5e6 < model.num_parameters() < 6.5e6
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_model_and_tokenizer_agree_on_special_tokens(model, tokenizer):
    names = ("<|end|>", "<|user|>", "<|assistant|>", "<|pad|>", "<|system|>")
    assert tokenizer.convert_tokens_to_ids(list(names)) == [0, 1, 2, 3, 4]
    assert tokenizer.bos_token_id is None
    assert model.config.eos_token_id == tokenizer.eos_token_id == model.generation_config.eos_token_id == 0
    assert model.config.pad_token_id == tokenizer.pad_token_id == 3
    assert len(tokenizer) == model.config.vocab_size


def test_any_text_comes_back_and_digits_stand_alone(tokenizer):
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    assert [token for token in tokenizer.convert_ids_to_tokens(ids) if any(c.isdigit() for c in token)] == list("1234")


def test_the_template_marks_what_the_assistant_says(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say hi."},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "Again."},
        {"role": "assistant", "content": "hi hi"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == ("<|system|>Be brief.<|user|>Say hi.<|assistant|>hi<|end|><|user|>Again.<|assistant|>hi hi<|end|>")
    coded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    learned = [i for i, marked in zip(coded["input_ids"], coded["assistant_masks"], strict=True) if marked]
    assert tokenizer.decode(learned) == "hi<|end|>hi hi<|end|>"
    opened = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert opened == "<|system|>Be brief.<|user|>Say hi.<|assistant|>"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "tool", "content": "3"}],
        [{"role": "user", "content": "a"}, {"role": "system", "content": "late"}],
    ],
)
def test_the_template_refuses_turns_it_cannot_render(tokenizer, messages):
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError):
        tokenizer.apply_chat_template(messages, tokenize=False)


def test_prose_is_likelier_than_its_shuffled_words(model, tokenizer):
    import torch

    sentences = ("She opened the door and looked into the room.", "room the into looked and door the opened She.")
    losses = []
    for sentence in sentences:
        ids = torch.tensor([tokenizer(sentence)["input_ids"]])
        losses.append(float(model(input_ids=ids, labels=ids).loss.detach()))
    assert losses[0] < losses[1] - 1.0
