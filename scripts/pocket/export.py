"""Write a commit as a plain transformers folder: `python scripts/pocket/export.py --work WORK --run RUN --output DIR`.

Nothing is written before the exported weights, in transformers' own Llama, give the network's logits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from card import model_card
from commits import commits, restore
from measure import corpora, skills
from network import Network, Shape
from prepare import SPECIALS
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LARGEST_BYTES = 12_000_000
LARGEST_DIFFERENCE = 1e-4
TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def llama_weights(network: Network) -> dict[str, Tensor]:
    """The network's tensors under the names of transformers' Llama, in bfloat16."""
    weights = {"model.embed_tokens.weight": network.embedding, "model.norm.weight": network.norm}
    for i, block in enumerate(network.blocks):
        at = f"model.layers.{i}."
        weights[at + "input_layernorm.weight"] = block.attention_norm
        weights[at + "post_attention_layernorm.weight"] = block.ffn_norm
        for name, part in zip("qkv", block.qkv.chunk(3), strict=True):
            weights[f"{at}self_attn.{name}_proj.weight"] = part
        weights[at + "self_attn.o_proj.weight"] = block.out
        for name, part in zip(("gate", "up"), block.gate_up.chunk(2), strict=True):
            weights[f"{at}mlp.{name}_proj.weight"] = part
        weights[at + "mlp.down_proj.weight"] = block.down
    return {name: tensor.detach().bfloat16().contiguous() for name, tensor in weights.items()}


def llama_config(shape: Shape) -> LlamaConfig:
    """The configuration that makes transformers' Llama this network."""
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_base},
        rms_norm_eps=shape.epsilon,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIALS.index("<|end|>"),
        pad_token_id=SPECIALS.index("<|pad|>"),
        dtype=torch.bfloat16,
        architectures=["LlamaForCausalLM"],
    )


@torch.no_grad()
def largest_difference(network: Network, weights: dict[str, Tensor]) -> float:
    """Largest absolute difference of fp32 logits between the network and transformers' Llama on `weights`.

    The network itself is rounded to the exported bfloat16 values first, so the figure is about arithmetic only.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.bfloat16().float()
    model = LlamaForCausalLM(llama_config(network.shape)).float().eval()
    tied = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}
    model.load_state_dict({name: tensor.float() for name, tensor in tied.items()})
    generator = torch.Generator().manual_seed(0)
    length = min(300, network.shape.context)
    tokens = torch.randint(0, network.shape.vocabulary, (2, length), generator=generator)
    ours = F.linear(network.hidden(tokens, torch.float32), network.embedding)
    return float((model(input_ids=tokens).logits - ours).abs().max())


def write_tokenizer(work: Path, folder: Path, context: int) -> None:
    """The tokenizer as transformers loads it, with its chat template."""
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(work / "tokenizer.json")),
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE.read_text(encoding="utf-8"),
    ).save_pretrained(folder)
    # The stable public name of the class: its present name is newer than our oldest supported transformers.
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text(encoding="utf-8")), "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def export(work: Path, run: str, output: Path, skill_items: int, windows: int, note: str) -> None:
    """Check, measure and write; the output folder is replaced as a whole.

    Raises:
        RuntimeError: the exported model disagrees with the network, or the file is too large.
    """
    network = Network(Shape())
    checkpoint = commits(work / run)[-1]
    state = restore(checkpoint, network)
    weights = llama_weights(network)
    difference = largest_difference(network, weights)
    if not difference <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"logits differ from transformers by {difference:.2e}, allowed {LARGEST_DIFFERENCE:.0e}")
    staging = output.with_name(f".{output.name}-{os.getpid()}")
    staging.mkdir(parents=True)
    try:
        save_file(weights, staging / "model.safetensors", metadata={"format": "pt"})
        (staging / "model.safetensors").chmod(0o644)
        size = (staging / "model.safetensors").stat().st_size
        if size > LARGEST_BYTES:
            raise RuntimeError(f"model.safetensors has {size} bytes, allowed {LARGEST_BYTES}")
        llama_config(network.shape).save_pretrained(staging)
        GenerationConfig(eos_token_id=0, pad_token_id=3).save_pretrained(staging)
        write_tokenizer(work, staging, network.shape.context)
        figures = corpora(network, work, 512, windows, torch.float32)
        abilities = skills(network, Tokenizer.from_file(str(work / "tokenizer.json")), skill_items, torch.bfloat16)
        card = model_card(
            work, state, figures=figures, abilities=abilities, difference=difference, size=size, note=note
        )
        (staging / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(output, ignore_errors=True)
        os.replace(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(card)


def main() -> None:
    """Parse the arguments and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--run", required=True, help="the folder under --work whose newest commit is exported")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--skill-items", type=int, default=1000, help="test items per skill in the model card")
    parser.add_argument("--windows", type=int, default=10_000, help="held-out windows of 512 tokens per corpus")
    parser.add_argument("--note", default="", help="a remark for the model card's section on training")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    export(arguments.work, arguments.run, arguments.output, arguments.skill_items, arguments.windows, arguments.note)


if __name__ == "__main__":
    main()
