"""LoRA's starts from the weight, its embedding and LoRA+ against PEFT."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch.testing import assert_close

from keeptune.core.errors import ModelError, PlanError
from keeptune.core.shape import ModelShape
from keeptune.core.spec import validate
from keeptune.engine.batch import PackedBatch
from keeptune.engine.book import detach
from keeptune.engine.head import head_logits
from keeptune.engine.packed import packed_hidden
from keeptune.engine.rows import active, rows
from keeptune.methods import LoRA, Prompt, load_adapter, save_adapter
from keeptune.models.quantize import matrix_of, put_into_4_bits
from keeptune.stages.optimizers import Optimizer
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(5))
STARTS = ["pissa", "olora"]
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "mlp.c_proj"]}


def trained(model, steps=3):
    """Some steps of plain gradient descent in double precision, where signs and rounding of a start cannot matter."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    return model


def randomise(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            if "lora_" in key:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


# PEFT's OLoRA does not turn GPT-2's transposed weights, and fails on them.
@pytest.mark.parametrize(("family", "start"), [("llama", "pissa"), ("llama", "olora"), ("gpt2", "pissa")])
def test_training_from_the_start_is_training_pefts(family, start):
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS[family], init_lora_weights=start, fan_in_fan_out=family == "gpt2",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = get_peft_model(tiny_model(family), config).eval().double()
    ours = tiny_model(family).double()
    LoRA(rank=4, alpha=6, targets=TARGETS[family], init=start).attach(ours)
    ours.keeptune.double()
    before = theirs(TOKENS).logits
    assert_close(ours(TOKENS).logits, before, rtol=1e-4, atol=1e-4)
    after = trained(theirs)(TOKENS).logits
    assert_close(trained(ours)(TOKENS).logits, after, rtol=1e-4, atol=1e-4)
    assert (after - before).abs().max() > 0.05


@pytest.mark.parametrize("start", STARTS)
def test_the_start_is_a_part_of_the_weight_yet_the_base_stays_bitwise(start):
    model = tiny_model("llama")
    before = model(TOKENS).logits
    LoRA(rank=32, alpha=48, targets=["q"], init=start).attach(model)
    weight = model.model.layers[0].self_attn.q_proj.weight
    delta = model.keeptune.adapter("default").placed[0][0].delta
    assert_close(48 / 32 * delta.lora_B @ delta.lora_A, weight if start == "pissa" else 1.5 * weight, **CLOSE)
    assert torch.equal(model(TOKENS).logits, before)
    randomise(model)
    assert not torch.equal(model(TOKENS).logits, before)
    detach(model, "default")
    assert torch.equal(model(TOKENS).logits, before)


@pytest.mark.parametrize(
    "settings", [{}, {"rslora": True, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 9}}]
)
@pytest.mark.parametrize("start", STARTS)
def test_its_file_is_a_plain_lora_of_twice_the_rank_to_both_libraries(tmp_path, start, settings):
    model = tiny_model("llama")
    method = LoRA(rank=4, alpha=6, init=start, **settings)
    method.attach(model, "ana")
    save_adapter(randomise(model), "ana", tmp_path)
    expected = model.double()(TOKENS).logits  # in float32 the parts that cancel leave their rounding behind
    stored = model.keeptune.adapter("ana").tensors().values()
    assert method.cost(ModelShape.from_config(model.config.to_dict())).stored_bytes == 4 * sum(
        t.numel() for t in stored
    )
    again = tiny_model("llama")
    load_adapter(again, tmp_path)
    assert_close(again.double()(TOKENS).logits, expected, **CLOSE)
    assert again.keeptune.adapter("default").methods[0].rank == 8
    theirs = PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval().double()
    assert_close(theirs(TOKENS).logits, expected, **CLOSE)
    method.merge(model, "ana")
    assert_close(model(TOKENS).logits, expected, **CLOSE)


def test_a_start_takes_the_unpacked_weights_of_a_base_in_4_bits_apart():
    model = tiny_model("llama")
    put_into_4_bits(model)
    before = model(TOKENS).logits
    LoRA(rank=32, alpha=32, targets=["q"], init="pissa").attach(model)
    delta = model.keeptune.adapter("default").placed[0][0].delta
    assert_close(delta.lora_B @ delta.lora_A, matrix_of(model.model.layers[0].self_attn.q_proj).float(), **CLOSE)
    assert torch.equal(model(TOKENS).logits, before)


def test_a_start_needs_as_many_parts_as_the_rank():
    with pytest.raises(PlanError) as caught:
        LoRA(rank=33, init="pissa").attach(tiny_model("llama"))
    assert caught.value.code == "E-METHOD-RANK"


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_an_embedding_of_pefts_loads_with_its_logits_and_ours_in_peft(tmp_path, family):
    name = {"gpt2": "wte"}.get(family, "embed_tokens")
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["k_proj", name] if family != "gpt2" else ["c_attn", name],
        fan_in_fan_out=family == "gpt2", task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = randomise(get_peft_model(tiny_model(family, tie_word_embeddings=False), config).eval())
    theirs.save_pretrained(tmp_path / "theirs")
    ours = tiny_model(family, tie_word_embeddings=False)
    load_adapter(ours, tmp_path / "theirs")
    assert_close(ours(TOKENS).logits, theirs(TOKENS).logits, **CLOSE)
    save_adapter(ours, "default", tmp_path / "ours")
    again = PeftModel.from_pretrained(tiny_model(family, tie_word_embeddings=False), tmp_path / "ours").eval()
    assert_close(again(TOKENS).logits, theirs(TOKENS).logits, **CLOSE)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_the_matrix_that_peft_writes_along_must_be_the_bases(tmp_path):
    config = LoraConfig(r=4, target_modules=["k_proj", "embed_tokens"], task_type="CAUSAL_LM")
    get_peft_model(tiny_model("llama"), config).save_pretrained(tmp_path)
    load_adapter(tiny_model("llama"), tmp_path)
    with pytest.raises(ModelError, match="embed_tokens") as caught:
        load_adapter(tiny_model("llama", seed=1), tmp_path)
    assert caught.value.code == "E-ADAPTER-BASE"
    load_adapter(tiny_model("llama", seed=1), tmp_path, force=True)


def test_an_embeddings_update_is_counted_merged_and_refused_where_the_head_shares_it():
    model, method = tiny_model("llama"), LoRA(rank=4, targets=["q"], embedding=True)
    before = model(TOKENS).logits
    method.attach(model)
    assert torch.equal(model(TOKENS).logits, before)
    counted = sum(p.numel() for p in model.keeptune.parameters())
    assert method.cost(ModelShape.from_config(model.config.to_dict())).trainable_parameters == counted
    expected = randomise(model)(TOKENS).logits
    method.merge(model, "default")
    assert_close(model(TOKENS).logits, expected, **CLOSE)
    tied = tiny_model("llama", tie_word_embeddings=True)
    method.attach(tied)
    with pytest.raises(PlanError, match="head") as caught:
        method.merge(tied, "default")
    assert caught.value.code == "E-ADAPTER-MERGE"


def test_each_row_has_its_own_embedding_behind_a_soft_prompt_too():
    model = tiny_model("llama")
    LoRA(rank=4, targets=["q"], embedding=True).attach(model, "ana")
    Prompt(length=2).attach(model, "words")
    randomise(model)
    texts = torch.cat([TOKENS, TOKENS.flip(0)])
    stacks = ["ana", "words", None, ("words", "ana")]
    alone = []
    for row, stack in enumerate(stacks):
        with active(model, stack):
            alone.append(model(texts[row : row + 1]).logits[0])
    with rows(model, stacks):
        assert_close(model(texts).logits, torch.stack(alone), **CLOSE)
    batch = PackedBatch(
        tokens=texts.flatten(),
        positions=torch.arange(9).repeat(4),
        offsets=[0, 9, 18, 27, 36],
        targets=torch.full((36,), -100),
        weights=None,
        adapters=[("ana",), ("words",), None, ("words", "ana")],
        sources=[""] * 4,
        ids=[""] * 4,
    )
    assert_close(head_logits(model, packed_hidden(model, batch)), torch.cat(alone), **CLOSE)


def test_lora_plus_gives_each_parameter_the_rate_that_peft_gives_it():
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    theirs = get_peft_model(tiny_model("llama"), config)
    reference = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=2e-3, loraplus_lr_ratio=16)
    rate_of = {id(p): group["lr"] for group in reference.param_groups for p in group["params"]}
    expected = {
        key.split(".default")[0][-6:]: rate_of[id(p)] for key, p in theirs.named_parameters() if p.requires_grad
    }
    ours = tiny_model("llama")
    LoRA(rank=4, targets=["q", "down"]).attach(ours)
    named = [(key, p) for key, p in ours.named_parameters() if p.requires_grad]
    optimizer = validate(Optimizer, {"name": "adamw", "lr": 2e-3, "rates": {"lora_B": 16}}).build(named)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert (
        {key[-6:]: rate_of[id(p)] for key, p in named} == expected == {"lora_A": 2e-3, "lora_B": pytest.approx(0.032)}
    )


def test_a_rate_that_no_parameter_has_is_refused():
    ours = tiny_model("llama")
    LoRA(rank=4).attach(ours)
    named = [(key, p) for key, p in ours.named_parameters() if p.requires_grad]
    with pytest.raises(PlanError, match="lora_C") as caught:
        validate(Optimizer, {"name": "adamw", "rates": {"lora_C": 16}}).build(named)
    assert caught.value.code == "E-TRAIN-RATES"
    assert "lora_" in caught.value.fix
