"""A fingerprint knows a base by its values, whatever the dtype and whatever is attached."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from keeptune.models.fingerprint import fingerprint, shape_digest, template_digest, tokenizer_digest
from tests.tiny_models import tiny_model


def test_the_same_weights_in_another_dtype_have_the_same_fingerprint():
    model = tiny_model("gemma2")
    assert fingerprint(model) == fingerprint(tiny_model("gemma2").bfloat16())


def test_another_base_of_the_same_shape_has_another_fingerprint():
    assert fingerprint(tiny_model("llama")) != fingerprint(tiny_model("llama", seed=1))


def test_every_parameter_counts():
    reference = fingerprint(tiny_model("llama"))
    for name, _ in tiny_model("llama").named_parameters():
        model = tiny_model("llama")
        with torch.no_grad():
            model.get_parameter(name).add_(0.5)
        assert fingerprint(model) != reference, name


def test_shapes_count_even_when_the_values_are_the_same():
    first, second = nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)
    for linear in (first, second):
        nn.init.ones_(linear.weight)
    assert fingerprint(first) != fingerprint(second)


def test_what_keeptune_attached_does_not_count():
    model = tiny_model("llama")
    before = fingerprint(model)
    model.keeptune = nn.Linear(2, 2)
    assert fingerprint(model) == before


def test_shapes_alone_are_another_digest():
    model, other = tiny_model("llama"), tiny_model("llama", seed=1)
    assert shape_digest(model) == shape_digest(other)
    assert shape_digest(model) != shape_digest(tiny_model("llama", intermediate_size=40))


def test_a_tokenizer_is_known_by_its_words_its_special_tokens_and_its_rules():
    digests = {tokenizer_digest(made(words)) for words in (["a", "b"], ["b", "a"], ["a", "b", "c"])} | {
        tokenizer_digest(made(["a", "b"], eos_token="a")),
        tokenizer_digest(made(["a", "b"], lower=True)),
    }
    assert len(digests) == 5
    assert tokenizer_digest(made(["a", "b"])) == tokenizer_digest(made(["a", "b"]))
    assert tokenizer_digest(None) is None


def test_a_template_is_known_by_its_text():
    tokenizer = made(["a"])
    assert template_digest(tokenizer) is None
    tokenizer.chat_template = "{{ messages }}"
    first = template_digest(tokenizer)
    tokenizer.chat_template = "{{ messages }} "
    assert None not in (first, template_digest(tokenizer))
    assert first != template_digest(tokenizer)


def made(words, *, lower=False, **special):
    vocabulary = {"<unk>": 0, "naïve": 1, "Test": 2, **{word: number + 3 for number, word in enumerate(words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
