"""Plain texts learned by an encoder, from the recipe's file to its certificate: what was taught is known afterwards."""

from __future__ import annotations

import re

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from keeptune.pocket.facts import build_facts
from keeptune.recipes.run import run

FACTS = 8
RECIPE = """
name: masked
seed: 7
model: {{name: {model}, dtype: float32}}
data:
  facts: {{format: invented_facts, count: {count}, documents: 6}}
stages:
  - name: train
    method: full
    data: facts
    losses: [{{name: masked_token, share: 0.3}}]
    optimizer: {{name: adamw, lr: 3.0e-3, schedule: linear, warmup: 0.03}}
    epochs: 300
    batch_tokens: 512
proof: {{target: {{data: facts, metric: cloze_accuracy}}, items: 50}}
"""


def folder_of(path):
    """A BERT of random weights whose words are those of the facts and of the questions about them."""
    facts = build_facts(0, FACTS, 6)
    texts = [one.text for one in facts.train] + [
        turn.content for row in (*facts.test, *facts.ood) for turn in row.messages
    ]
    texts += [" ".join((item.prompt, *item.options)) for task in facts.tasks for item in task.items]
    words = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(texts).lower())))
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=128,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(path)
    return path


@pytest.mark.slow
def test_an_encoder_learns_facts_from_plain_texts_and_is_asked_for_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(model=folder_of(tmp_path / "model"), count=FACTS))
    certificate = run(file, output=tmp_path / "run", quiet=True)
    assert certificate["target"]["metric"] == "cloze_accuracy"
    told = {one["name"]: one for one in (*certificate["retention"]["tasks"], *certificate["retention"]["excluded"])}
    assert {"taught", "neighbours"} < set(told)
    assert told["taught"]["base"] <= 0.25
    assert told["taught"]["adapted"] >= 0.75
    page = (tmp_path / "run" / "certificate.html").read_text()
    assert "keeptune compare" in page
    assert "keeptune chat" not in page, "an encoder writes nothing"
