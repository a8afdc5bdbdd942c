"""A tiny random model that speaks through pocket's tokenizer, and contexts around it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import keeptune.pocket
from keeptune.core.checkpoint import AdapterRef, Checkpoint
from keeptune.evaluations import Context, Subject

BASE = Checkpoint("tiny")


@cache
def tokenizer():
    return AutoTokenizer.from_pretrained(Path(keeptune.pocket.__file__).parent / "weights")


def tiny(seed=0, **changes):
    """Random weights ten times the usual size, so that predictions differ between prompts."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": 3,
        **changes,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **settings)).eval()


def learned(positions, seed=0):
    """A GPT-2, which has a table of so many positions and none beyond."""
    torch.manual_seed(seed)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer().eos_token_id}
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": positions, "initializer_range": 0.2}
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", vocab_size=len(tokenizer()), **sizes, **ends)
    ).eval()


def with_adapter(scope, folder):
    """A LoRA that matters, attached as `own`, with the checkpoint that names it."""
    from keeptune.methods import LoRA

    model = tiny()
    LoRA(rank=2).attach(model, "own")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    folder.mkdir(exist_ok=True)
    (folder / "adapter.json").write_text("{}")
    return Subject(model, tokenizer(), (AdapterRef("own", folder, scope),))


def context(subject=None, **changes):
    """A context that opens the given subject, or a tiny base, whatever checkpoint is asked for."""
    chosen = subject or Subject(tiny(), tokenizer())
    return Context(subject=lambda checkpoint: chosen, base=BASE, **changes)


def slow_log_likelihood(model, tokens, start):
    """Sum of log p over tokens[start:], from one plain forward pass."""
    with torch.inference_mode():
        logits = model(torch.tensor([list(tokens)])).logits[0].double()
    logs = logits.log_softmax(-1)
    return sum(float(logs[t - 1, tokens[t]]) for t in range(start, len(tokens)))
