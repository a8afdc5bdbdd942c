"""Small tokenizers made in the test, and chat templates in the manner of known families."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

CORPUS = [
    "the quick brown fox jumps over the lazy dog and says hello to the other foxes\n",
    "What is the capital of France? The capital is Paris. Question Reply Answer User Assistant System:\n\n",
    "one two three four five six seven eight nine ten, 0 1 2 3 4 5 6 7 8 9 (a) [b] {c} <d> |e| end start\n",
] * 4
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
SPECIAL += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<bos>"]

TEMPLATES = {
    "pocket": (
        "{% for m in messages %}{% if m['role'] == 'system' %}<|user|>{{ m['content'] }}\n"
        "{% elif m['role'] == 'user' %}<|user|>{{ m['content'] }}{% elif m['role'] == 'assistant' %}<|assistant|>"
        "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "chatml": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "<start_of_turn>{{ role }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
        "{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}"
        "{% for m in loop_messages %}{% if m['role'] == 'user' %}{% if loop.last or loop.index0 == loop.length - 2 %}"
        "{% if system is defined %}[INST] {{ system }}\n\n{{ m['content'] }} [/INST]{% else %}"
        "[INST] {{ m['content'] }} [/INST]{% endif %}{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}"
        "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "zephyr": (
        "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>\n{{ m['content'] }}{{ eos_token }}\n"
        "{% elif m['role'] == 'system' %}<|system|>\n{{ m['content'] }}{{ eos_token }}\n"
        "{% else %}<|assistant|>\n{{ m['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "thinking": (
        "{% set last = namespace(user=0) %}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% set content = m['content'] %}{% if m['role'] == 'assistant' %}"
        "{% set thought = m.get('reasoning_content', '') %}{% if '</think>' in content %}"
        "{% set thought = content.split('</think>')[0].split('<think>')[-1] %}"
        "{% set content = content.split('</think>')[-1] %}{% endif %}<|im_start|>assistant\n"
        "{% if loop.index0 > last.user %}<think>\n{{ thought.strip('\n') }}\n</think>\n\n{{ content.lstrip('\n') }}"
        "{% else %}{{ content.lstrip('\n') }}{% endif %}<|im_end|>\n"
        "{% else %}<|im_start|>{{ m['role'] }}\n{{ content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "tools": (
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}{% for m in messages %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% if m.tool_calls %}{% for call in m.tool_calls %}"
        "<tool_call>{{ call | tojson }}</tool_call>{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
END = {
    "pocket": "<|end|>",
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "mistral": "</s>",
    "zephyr": "</s>",
    "thinking": "<|im_end|>",
    "tools": "<|im_end|>",
}


@cache
def backend(kind: str) -> str:
    """A tokenizer of one kind as JSON: byte_level (Llama 3), metaspace (Llama 2), first (newer ones)."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=kind != "byte_level"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if kind == "byte_level":
        # The word pattern of GPT-4 and Llama 3: a run of line ends is one word, also before a letter.
        words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        split = pre_tokenizers.Split(Regex(words), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        tokenizer.decoder = decoders.ByteLevel()
        specials = SPECIAL
    else:
        specials = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)]
        alphabet = [chr(point) for point in range(33, 127)] + ["▁", "\n"]
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        if kind == "metaspace":
            after: Any = None
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            after = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(pieces)
        post = [("<s>", 1)]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=post)
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if kind != "byte_level":
        tokenizer.pre_tokenizer = after
    return tokenizer.to_str()


def make(kind: str = "byte_level", template: str | None = None, **settings: Any) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    flagged = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", **settings}
    extra = [text for text in SPECIAL if text not in flagged.values()]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend(kind)), additional_special_tokens=extra, **flagged
    )
    tokenizer.chat_template = TEMPLATES.get(template, template) if template else None
    return tokenizer


@pytest.fixture(scope="session")
def make_tokenizer():
    return cache(make)


@pytest.fixture(scope="session")
def templates():
    return TEMPLATES


@pytest.fixture(scope="session")
def end_of_turn():
    return END
