"""SpotTune against a slow loop: every row alone, through a model whose chosen blocks carry the tuned weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from keeptune.core.errors import PlanError
from keeptune.engine.attention import use_attention
from keeptune.engine.batch import pack
from keeptune.engine.generation import generate
from keeptune.engine.head import head_logits
from keeptune.engine.packed import packed_hidden
from keeptune.engine.rows import gated, off
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import token_logprobs
from keeptune.engine.shared_prefix import group_logprobs
from keeptune.methods import SpotTune, load_adapter, save_adapter
from keeptune.methods._policy import straight_through
from tests.engine.adapted import padded
from tests.tiny_models import VOCABULARY, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TOKENS = torch.randint(3, VOCABULARY, (6, 9), generator=torch.Generator().manual_seed(5))
FAMILIES = ["llama, biases, one key head, tied", "gpt2", "qwen3", "gemma2"]
BRANCHES = ["lora", "copy"]


def adapted(family="llama", **settings):
    """A double-precision model whose branches differ, with the first random policy by which rows choose differently."""
    model = tiny_model(family).double()
    use_attention(model)
    SpotTune(rank=3, hidden=8, bias=0.0, **settings).attach(model, "spot")
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in model.keeptune.named_parameters():
                deviation = 1.0 if "Decisions" in key else 0.1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
        if len(set(map(tuple, decisions(model, TOKENS).tolist()))) > 1:
            return model
    raise AssertionError("no policy tells the rows apart")


def policy_of(model, name="spot"):
    return model.keeptune.adapter(name).placed[0][0].delta


def decisions(model, texts):
    """By the definition: the mean embedding of the text, the network, the larger of two."""
    policy, weight = policy_of(model), model.get_input_embeddings().weight
    found = []
    for text in texts:
        mean = weight[text].float().mean(0)
        normed = (mean - mean.mean()) / (mean.var(unbiased=False) + 1e-5).sqrt()
        inner = (policy.inner @ normed + policy.inner_bias).clamp(min=0)
        found.append((policy.outer @ inner + policy.outer_bias).view(-1, 2).argmax(1))
    return torch.stack(found)


def tuned_by_hand(model, family, gates):
    """A plain model with the tuned weights in the blocks whose gate is 1."""
    plain = tiny_model(family).double()
    use_attention(plain)
    with torch.no_grad():
        for place, delta, _ in model.keeptune.adapter("spot").placed[0][1:]:
            if not gates[place.layer]:
                continue
            module, kept = plain.get_submodule(place.path), dict(delta.inner.named_parameters())
            low_rank = "lora_A" in kept
            update = 2.0 * kept["lora_B"] @ kept["lora_A"] if low_rank else kept.get("weight", kept.get("gain"))
            module.weight += update.T if isinstance(module, Conv1D) else update
            if kept.get("bias") is not None:
                module.bias += kept["bias"]
    return plain


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("branch", BRANCHES)
def test_each_row_runs_the_blocks_that_its_prompt_chose(family, branch):
    model = adapted(family, branch=branch)
    chosen = decisions(model, TOKENS)
    assert len(set(map(tuple, chosen.tolist()))) > 1
    logits = model(TOKENS).logits
    for row, gates in enumerate(chosen):
        alone = tuned_by_hand(model, family, gates.tolist())(TOKENS[row : row + 1]).logits[0]
        assert_close(logits[row], alone, **CLOSE)


@pytest.mark.parametrize("branch", BRANCHES)
def test_with_every_gate_shut_the_model_is_the_base_bitwise(branch):
    model = adapted(branch=branch)
    base = tiny_model("llama").double()
    use_attention(base)
    with gated(model, {"spot": torch.zeros(6, 2)}):
        assert torch.equal(model(TOKENS).logits, base(TOKENS).logits)
    with off(model):
        assert torch.equal(model(TOKENS).logits, base(TOKENS).logits)


def rows(prompts=(4, 2, 6, 3, 5, 1)):
    from keeptune.data.encode import Encoded

    return [
        Encoded(f"r{row}", "task", tuple(TOKENS[row].tolist()), tuple(place >= length for place in range(9)))
        for row, length in enumerate(prompts)
    ]


def test_a_packed_batch_decides_from_what_stands_before_the_first_learned_token():
    model = adapted()
    batch = pack(rows())
    chosen = decisions(model, [TOKENS[row, :length] for row, length in enumerate((4, 2, 6, 3, 5, 1))])
    assert 0 < chosen.sum() < chosen.numel()
    free = packed_hidden(model, batch)
    with gated(model, {"spot": chosen}):
        assert_close(packed_hidden(model, batch), free, **CLOSE)
    with gated(model, {"spot": 1 - chosen}):
        assert not torch.allclose(packed_hidden(model, batch), free, **CLOSE)


def test_labels_keep_the_answer_out_of_a_padded_batchs_decisions():
    model = adapted()
    labels = TOKENS.clone()
    for row, length in enumerate((4, 2, 6, 3, 5, 1)):
        labels[row, :length] = -100
    packed = head_logits(model, packed_hidden(model, pack(rows()))).view(6, 9, -1)
    assert_close(model(TOKENS, labels=labels).logits, packed, **CLOSE)
    assert not torch.allclose(model(TOKENS).logits, packed, **CLOSE)


def test_scoring_with_a_shared_prompt_and_row_by_row_agree():
    model = adapted()
    groups = [
        [Scored((*TOKENS[row, :5].tolist(), *TOKENS[other, 6:].tolist()), 5) for other in range(3)] for row in range(4)
    ]
    chosen = decisions(model, [TOKENS[row, :5] for row in range(4)])
    assert len(set(map(tuple, chosen.tolist()))) > 1
    flat = token_logprobs(model, [row for group in groups for row in group])
    together = [total for group in group_logprobs(model, groups) for total in group]
    assert together == pytest.approx([sum(scores) for scores in flat], abs=1e-5)


def test_a_row_keeps_its_decisions_while_it_is_written_by_whatever_decoder():
    model = adapted()

    class PadZero:
        pad_token_id = 0

    prompts = [TOKENS[row, :length] for row, length in enumerate((4, 2, 6, 3, 5, 1))]
    chosen = decisions(model, prompts)
    assert len(set(map(tuple, chosen.tolist()))) > 1
    limits = {"max_new_tokens": 7, "stop_ids": {2, 9, 17, 30, 31}}
    answers = generate(model, PadZero(), [prompt.tolist() for prompt in prompts], **limits)
    ids, mask = padded(prompts, "left")
    search = {"num_beams": 3, "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    beams = model.generate(ids, attention_mask=mask, **search)[:, -5:]
    moved = 0
    for row, (prompt, gates) in enumerate(zip(prompts, chosen, strict=True)):
        plain = tuned_by_hand(model, "llama", gates.tolist())
        written = generate(plain, PadZero(), [prompt.tolist()], **limits)[0]
        assert answers[row] == written
        assert torch.equal(beams[row], plain.generate(prompt[None], **search)[0, -5:])
        texts = [torch.tensor([*prompt.tolist(), *written[:count]]) for count in range(len(written) + 1)]
        moved += (decisions(model, texts) != gates).any().item()
    assert moved  # deciding anew on the way would have gone wrong


def test_a_cache_of_other_rows_is_refused():
    model = adapted()
    with off(model):
        cache = model(TOKENS, use_cache=True).past_key_values
    with pytest.raises(PlanError) as caught:
        model(TOKENS[:, :1], past_key_values=cache)
    assert caught.value.code == "E-DECISION-CACHE"


def test_the_estimator_is_the_authors():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 4, 2, generator=generator).requires_grad_()
    weight = torch.randn(5, 4, generator=generator)
    torch.manual_seed(11)
    gates = straight_through(logits, 5.0, noisy=True)
    (gates * weight).sum().backward()
    torch.manual_seed(11)
    noise = -torch.log(torch.empty(5, 4, 2).exponential_())
    again = logits.detach().clone().requires_grad_()
    soft = torch.softmax((again + noise) / 5.0, dim=-1)
    hard = torch.nn.functional.one_hot(soft.argmax(-1), 2).float()
    theirs = ((hard - soft).detach() + soft)[..., 1]
    (theirs * weight).sum().backward()
    assert_close(gates, theirs)
    assert set(gates.flatten().tolist()) == {0.0, 1.0}
    assert_close(logits.grad, again.grad)


def test_gumbel_noise_draws_each_branch_as_often_as_the_softmax_says():
    logits = torch.tensor([[[0.0, 1.0]]]).expand(1, 20_000, 2)
    torch.manual_seed(0)
    share = straight_through(logits, 0.5, noisy=True).mean().item()
    probability = torch.sigmoid(torch.tensor(1.0)).item()
    assert abs(share - probability) < 4 * (probability * (1 - probability) / 20_000) ** 0.5


@pytest.mark.parametrize("branch", BRANCHES)
def test_the_policy_has_no_gradient_until_the_branches_differ(branch):
    model = tiny_model("llama").train()
    SpotTune(rank=3, branch=branch).attach(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        found.append(sum(p.grad.abs().sum().item() for p in policy_of(model, "default").parameters()))
        optimizer.step()
    assert found[0] == 0.0
    assert found[1] > 0.0


def test_noise_is_of_training_alone_and_is_counted_without_it():
    model = adapted()
    assert torch.equal(model(TOKENS).logits, model(TOKENS).logits)
    assert not policy_of(model).decisions.any()
    model.train()
    first = model(TOKENS, labels=torch.cat([torch.full((6, 4), -100), TOKENS[:, 4:]], dim=1)).logits
    assert not torch.equal(first, model(TOKENS).logits)
    policy_of(model).decisions.zero_()
    model(TOKENS)
    tuned = decisions(model, TOKENS).sum(0)
    assert torch.equal(policy_of(model).decisions, torch.stack([6 - tuned, tuned]).int())


def test_the_budget_pulls_towards_k_blocks():
    method = SpotTune(rank=3, hidden=8, compact=1, budget=0.5, entropy=0.25)
    model = tiny_model("llama").train()
    method.attach(model)
    model(TOKENS)
    placed = model.keeptune.adapter("default").placed[0]
    gates = placed[0].delta._made
    mean = gates.detach().mean(0).double()
    expected = 0.5 * (mean.sum() - 1) ** 2 - 0.25 * sum(m * m.log() for m in mean if m > 0)
    penalty = method.penalty(placed)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
    penalty.backward()
    assert policy_of(model, "default").outer_bias.grad.abs().sum() > 0
    assert method.penalty(placed) is None
    assert SpotTune().penalty(placed) is None


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_compact_one_settles_stores_its_blocks_alone_and_merges(tmp_path, branch):
    model = adapted(branch=branch, compact=1)
    method = model.keeptune.adapter("spot").methods[0]
    with pytest.raises(PlanError, match="settled"):
        method.merge(model, "spot")
    whole = len(model.keeptune.adapter("spot").tensors())
    placed = model.keeptune.adapter("spot").placed[0]
    policy_of(model).decisions[1] = torch.tensor([3, 5])
    for step in range(1, 11):
        method.after_step(placed, step, total=10)
        assert policy_of(model).settled.tolist() == ([0, 1] if step >= 8 else [0, 0])
    plain = tuned_by_hand(model, "llama", [0, 1])
    assert_close(model(TOKENS).logits, plain(TOKENS).logits, **CLOSE)
    kept = model.keeptune.adapter("spot").tensors()
    assert len(kept) - 7 == (whole - 7) / 2  # the policy's four parameters, its counts and its temperature
    assert not any("layers.0" in name for name in kept)
    save_adapter(model, "spot", tmp_path)
    fresh = tiny_model("llama").double()
    use_attention(fresh)
    load_adapter(fresh, tmp_path, "spot", trainable=True)
    assert_close(fresh(TOKENS).logits, plain(TOKENS).logits, **CLOSE)
    assert policy_of(fresh).decisions[1].tolist() == [3, 5]  # how often each block was tuned
    fresh.keeptune.adapter("spot").methods[0].merge(fresh, "spot")
    stock = copy.deepcopy(fresh)
    assert not hasattr(stock, "keeptune")
    for key, weight in plain.state_dict().items():
        assert_close(stock.state_dict()[key], weight, rtol=1e-5, atol=1e-6)


def test_the_temperature_falls_to_the_last_one():
    model = tiny_model("llama")
    method = SpotTune(temperature=4.0, last_temperature=1.0)
    method.attach(model)
    placed = model.keeptune.adapter("default").placed[0]
    found = []
    for step in (1, 5, 10):
        method.after_step(placed, step, total=10)
        found.append(policy_of(model, "default").tau.item())
    assert found == pytest.approx([4 * 0.25**0.1, 2.0, 1.0])


def test_more_blocks_than_there_are_is_refused():
    with pytest.raises(PlanError) as caught:
        SpotTune(compact=3).attach(tiny_model("llama"))
    assert caught.value.code == "E-METHOD-LAYER"
