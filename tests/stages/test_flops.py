"""A step executes the arithmetic that it needs and no more: counted product by product, so without noise."""

from __future__ import annotations

import pytest
import torch

from keeptune.engine.native import kernels as native
from keeptune.losses import Loss
from keeptune.methods import LoRA
from keeptune.stages._masters import Masters
from keeptune.stages._reference import Reference
from keeptune.stages._step import Objective
from tests.engine.test_packed import rows_of
from tests.flop_count import FlopCount
from tests.stages.test_preference_losses import pairs
from tests.tiny_models import tiny_model

LENGTHS = [21, 9, 33, 14, 14]
LONGER = [1 + computed for computed in (150, 66, 234, 101, 101, 97, 231, 120)]
D, HEADS, F, LAYERS, RANK, VOCABULARY = 128, 8, 352, 2, 4, 1024
KEYS = D // 2
ATTENTION = [(D, D), (D, KEYS), (D, KEYS)]  # q, k, v
BEHIND = [(D, D), (D, F), (D, F), (F, D)]
MAPS = [*ATTENTION, *BEHIND]


def useful(rows, *, causal: bool = False) -> int:
    """In closed form, from shapes, rows and segment lengths.

    A frozen map costs 2 T in out forward and as much for the gradient of its input; an update 6 T r (in + out); the
    lowest layer's queries, keys and values pass no gradient down. Attention: two products of L x L x K forward and
    four backward; `causal`: of their lower halves alone, which no way to compute them can leave out. The head runs on
    supervised positions, forward and down, and so does what is behind the attention of the last layer. A row ends with
    the token that predicts its last learned one.
    """
    lengths = [read_of(row) for row in rows]
    tokens, learned = sum(lengths), sum(sum(row.learned[1:]) for row in rows)
    frozen = 4 * over_layers(tokens, learned, lambda i, o: i * o)
    updates = 6 * RANK * over_layers(tokens, learned, lambda i, o: i + o)
    lowest = 2 * tokens * sum(i * o + RANK * i for i, o in ATTENTION)
    pairs = sum(length * (length + 1) // 2 if causal else length**2 for length in lengths)
    attention = 6 * 2 * LAYERS * D * pairs
    head = 4 * learned * D * VOCABULARY
    return frozen + updates - lowest + attention + head


def read_of(row) -> int:
    return max(place for place, learned in enumerate(row.learned) if learned)


def over_layers(tokens: int, learned: int, size) -> int:
    return (
        (LAYERS - 1) * tokens * summed(MAPS, size) + tokens * summed(ATTENTION, size) + learned * summed(BEHIND, size)
    )


def summed(maps, size) -> int:
    return sum(size(*one) for one in maps)


def model_of(dtype, **settings):
    sizes = {"hidden_size": D, "intermediate_size": F, "num_attention_heads": HEADS, "num_key_value_heads": HEADS // 2}
    model = tiny_model("llama", num_hidden_layers=LAYERS, vocab_size=VOCABULARY, **sizes).to(dtype)
    LoRA(rank=RANK, **settings).attach(model, "one")
    return model


def executed(rows, dtype, **settings) -> int:
    model = model_of(dtype, **settings)
    losses = [Loss.find("next_token")()]
    goal = Objective(model, Masters(model), losses, {"task": ("one",)}, None, micro_batch_tokens=10**6)
    with FlopCount() as count:
        goal.backward(rows)
    assert model.body_path == "fused"
    return count.total


KINDS = [(torch.float32, LENGTHS, False), (torch.bfloat16, LONGER, False), (torch.bfloat16, LONGER, True)]


@pytest.mark.parametrize(("dtype", "lengths", "kernels"), KINDS)
def test_a_lora_step_executes_at_most_1_05_times_the_useful_arithmetic(dtype, lengths, kernels, monkeypatch):
    """In bfloat16 with rows as long as instructions are: short ones are rounded up by more (`engine/even.py`)."""
    if kernels and native.compiled(torch.bfloat16) is None:
        pytest.skip("no C compiler here")
    if not kernels:
        monkeypatch.setattr(native, "compiled", lambda _: None)
    rows = rows_of(lengths)
    assert useful(rows, causal=kernels) <= executed(rows, dtype) <= 1.05 * useful(rows)


def test_a_step_over_pairs_computes_each_prompt_once_and_the_head_on_answers_alone(monkeypatch):
    """DPO with the adapter off as the reference: a step as above on the tokens of a pair, and one forward pass."""
    monkeypatch.setattr(native, "compiled", lambda _: None)
    batch, model = pairs(count=6, prompt=60), model_of(torch.float32)
    goal = Objective(
        model, Masters(model), [Loss.find("dpo")()], {"task": ("one",)},
        Reference(model, {"task": ()}, copied=False), micro_batch_tokens=10**6,
    )  # fmt: skip
    with FlopCount() as count:
        goal.backward(batch)
    tokens = squares = 0
    for prompt in {row.tokens[: row.fork.shared] for row in batch}:
        own = [
            read_of(ending) - len(prompt)
            for row in batch if row.tokens[: row.fork.shared] == prompt for ending in row.endings
        ]  # fmt: skip
        tokens += len(prompt) + sum(own)
        squares += len(prompt) ** 2 + sum(n * (n + len(prompt)) for n in own)
    learned = sum(sum(row.learned) for row in batch)
    frozen = 2 * over_layers(tokens, learned, lambda i, o: i * o)
    updates = 6 * RANK * over_layers(tokens, learned, lambda i, o: i + o)
    lowest = 2 * tokens * sum(i * o + RANK * i for i, o in ATTENTION)
    step = 2 * frozen + updates - lowest + 6 * 2 * LAYERS * D * squares + 4 * learned * D * VOCABULARY
    reference = frozen + 2 * 2 * LAYERS * D * squares + 2 * learned * D * VOCABULARY
    assert step + reference <= count.total <= 1.05 * (step + reference)


def test_padding_and_a_head_on_every_position_would_be_noticed():
    rows = rows_of(LENGTHS)
    padded = rows_of([max(LENGTHS)] * len(LENGTHS))
    assert executed(padded, torch.float32) > 1.5 * useful(rows)
    everywhere = [type(row)(**{**vars(row), "learned": (True,) * len(row.tokens)}) for row in rows]
    assert executed(everywhere, torch.float32) > 1.05 * useful(rows)
