"""The head against its formulas, written out row by row on states from transformers' own forward passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.errors import DataError, PlanError
from keeptune.core.shape import ModelShape
from keeptune.data.encode import Encoded
from keeptune.engine.batch import pack
from keeptune.engine.book import detach
from keeptune.engine.packed import packed_states
from keeptune.engine.readout import answers, image_answers
from keeptune.engine.rows import active
from keeptune.losses.label import Label
from keeptune.methods import Head, LoRA, Method, Prefix, Prompt, attach, load_adapter, save_adapter
from keeptune.models.anatomy import anatomy_of
from keeptune.models.quantize import put_into_4_bits, widen
from keeptune.stages._step import View
from tests.tiny_models import ENCODERS, SEQ2SEQ, VOCABULARY, inputs_of, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LABELS = ["no", "yes", "maybe"]
TEXT_FAMILIES = ["llama", "gpt2", *ENCODERS, *SEQ2SEQ]
LENGTHS = [5, 3, 8]
ANSWER = (7, 8)


def rows_of(family, answers=True, seed=5):
    """Three requests; for models that write, an answer of two tokens behind each."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number, length in enumerate(LENGTHS):
        request = tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())
        writes = answers and family not in ENCODERS
        tokens = (*request, *ANSWER) if writes else request
        learned = (False,) * length + (True,) * (len(tokens) - length)
        rows.append(Encoded(f"row {number}", "task", tokens, learned, LABELS[number % 2]))
    return rows


def shaken(model, method, name="one", seed=1):
    method.attach(model, name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.keeptune.adapter(name).parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def reference_states(family, row, length):
    """The states of one request, from a plain model's own `output_hidden_states`."""
    model = tiny_model(family).double()
    tokens = torch.tensor([row.tokens[:length]])
    if family in SEQ2SEQ:
        output = model.get_encoder()(tokens, output_hidden_states=True)
    else:
        output = model.base_model(tokens, output_hidden_states=True)
    return [*(state[0] for state in output.hidden_states[:-1]), output.last_hidden_state[0]]


def by_hand(settings, tensors, states):
    """The scores of one row, in the formulas of the two files."""
    t = {key.removeprefix("head."): value.double() for key, value in tensors.items()}
    if settings["layer"] == "mix":
        shares = torch.softmax(t["mix"], 0)
        h = t["gamma"] * sum(shares[i] * state for i, state in enumerate(states))
    else:
        h = states[-1 if settings["layer"] == "last" else settings["layer"]]
    if settings["pooling"] == "attention":
        z = (torch.softmax(h @ t["query"], 0)[:, None] * h).sum(0)
    else:
        z = {"cls": h[0], "last": h[-1], "mean": h.mean(0)}[settings["pooling"]]
    kind = settings["kind"]
    if kind == "linear":
        return t["weight"] @ z + t["bias"]
    if kind == "mlp":
        return t["weight"] @ torch.relu(t["down"] @ z + t["down_bias"]) + t["bias"]
    inner = t["down"] @ z
    scores = t["weight"] @ inner + t["bias"]
    if kind == "bilinear":
        scores = scores + torch.stack([inner @ matrix @ inner for matrix in t["products"]])
    return scores


@pytest.mark.parametrize("settings", [
    {"kind": "linear", "pooling": "mean", "layer": "last"},
    {"kind": "low_rank", "pooling": "last", "layer": 1},
    {"kind": "bilinear", "pooling": "attention", "layer": 0},
    {"kind": "mlp", "pooling": "attention", "layer": "mix"},
])  # fmt: skip
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_scores_are_the_formulas_on_the_states_of_each_request_alone(family, settings):
    model = shaken(tiny_model(family).double(), Head(labels=LABELS, inner=4, **settings))
    tensors, rows = model.keeptune.adapter("one").tensors(), rows_of(family)
    found = answers(model, pack(rows))
    for row, length, (scores, labels) in zip(rows, LENGTHS, found, strict=True):
        assert labels == tuple(LABELS)
        assert_close(scores, by_hand(settings, tensors, reference_states(family, row, length)), **CLOSE)
    unlabelled = answers(model, pack(rows_of(family, answers=False)))
    for one, other in zip(found, unlabelled, strict=True):
        assert_close(one.scores, other.scores, **CLOSE)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "modernbert", "t5"])
def test_cls_is_the_first_state(family):
    settings = {"kind": "linear", "pooling": "cls", "layer": "last"}
    model = shaken(tiny_model(family).double(), Head(labels=LABELS, **settings))
    rows = rows_of(family)
    for row, length, (scores, _) in zip(rows, LENGTHS, answers(model, pack(rows)), strict=True):
        expected = by_hand(settings, model.keeptune.adapter("one").tensors(), reference_states(family, row, length))
        assert_close(scores, expected, **CLOSE)


def test_images_are_read_like_texts():
    settings = {"kind": "mlp", "pooling": "mean", "layer": "mix"}
    model = shaken(tiny_model("vit").double(), Head(labels=LABELS, inner=4, **settings))
    pixels = inputs_of("vit", batch=3)["pixel_values"].double()
    output = tiny_model("vit").double()(pixels, output_hidden_states=True)
    for row, (scores, _) in enumerate(image_answers(model, pixels)):
        states = [*(state[row] for state in output.hidden_states[:-1]), output.last_hidden_state[row]]
        assert_close(scores, by_hand(settings, model.keeptune.adapter("one").tensors(), states), **CLOSE)


@pytest.mark.parametrize("family", ["llama", "bert", "t5", "vit"])
def test_it_changes_nothing_that_the_model_computes_and_comes_off_without_a_trace(family):
    model = tiny_model(family)
    before, modules = model(**inputs_of(family)), dict(model.named_modules())
    shaken(model, Head(labels=LABELS))
    after = model(**inputs_of(family))
    key = "logits" if "logits" in before else "last_hidden_state"
    assert torch.equal(before[key], after[key])
    detach(model, "one")
    assert dict(model.named_modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["llama", "bert", "bert, bare", "t5", "vit"])
@pytest.mark.parametrize("settings", [
    {}, {"kind": "bilinear", "inner": 3}, {"kind": "mlp", "inner": 5, "pooling": "attention", "layer": "mix"},
])  # fmt: skip
def test_cost_file_and_settings(family, settings, tmp_path):
    model, method = tiny_model(family), Head(labels=LABELS, **settings)
    shaken(model, method)
    cost = method.cost(ModelShape.from_config(model.config.to_dict()))
    assert cost.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert Method.model_validate(method.to_dict()) == method
    save_adapter(model, "one", tmp_path)
    fresh = tiny_model(family)
    load_adapter(fresh, tmp_path, "again", trainable=True)
    for key, tensor in model.keeptune.adapter("one").tensors().items():
        assert torch.equal(fresh.keeptune.adapter("again").tensors()[key], tensor)
    if family != "vit":
        rows = rows_of(family)
        pairs = zip(answers(model, pack(rows)), answers(fresh, pack(rows)), strict=True)
        assert all(torch.equal(one.scores, other.scores) and one.labels == other.labels for one, other in pairs)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_rows_have_heads_of_their_own_beside_other_adapters(family):
    model = shaken(tiny_model(family).double(), Head(labels=LABELS), "ana")
    shaken(model, Head(labels=["a", "b"], pooling="last"), "bo", seed=2)
    shaken(model, LoRA(rank=2), "low", seed=3)
    stacks = [("ana",), ("low", "bo"), ("bo", "low")]
    rows = rows_of(family)
    together = answers(model, pack(rows, adapters=stacks))
    for row, stack, (scores, labels) in zip(rows, stacks, together, strict=True):
        with active(model, stack):
            alone = answers(model, pack([row]))[0]
        assert alone.labels == labels
        assert_close(scores, alone.scores, **CLOSE)
    with pytest.raises(PlanError) as caught:
        answers(model, pack(rows, adapters=[("ana",), ("low",), None]))
    assert caught.value.code == "E-HEAD-NONE"


@pytest.mark.parametrize("family", ["llama", "bert", "deberta-v2", "t5", "bart"])
def test_virtual_tokens_are_never_pooled(family):
    """With a prompt in the stack, the states read are those of the text in a padded pass with that prompt."""
    head = Head(labels=LABELS, layer=1, pooling="mean")
    model = shaken(tiny_model(family).double(), Prompt(length=3), "prompt")
    shaken(model, Prompt(length=1), "short", seed=4)
    shaken(model, head, "head", seed=2)
    rows = rows_of(family)
    stacks = [("prompt", "head"), ("short", "head"), ("head",)]
    found = answers(model, pack(rows, adapters=stacks))
    for row, length, stack, (scores, _) in zip(rows, LENGTHS, stacks, found, strict=True):
        with active(model, stack):
            layers = packed_states(
                model, pack([replace(row, tokens=row.tokens[:length], learned=(False,) * length)]), layers=True
            )
        expected = by_hand(head.to_dict(), model.keeptune.adapter("head").tensors(), list(layers.layers))
        assert_close(scores, expected, **CLOSE)
        assert len(layers.layers[0]) == length


def test_the_loss_is_the_cross_entropy_of_each_rows_answer():
    model = shaken(tiny_model("bert"), Head(labels=LABELS))
    batch = pack([*rows_of("bert"), replace(rows_of("bert")[0], answer=None)])
    view = View(model, batch, packed_states(model, batch, layers=True), None)
    total, count = Label().terms(view)
    expected = [
        -answer.scores.log_softmax(0)[LABELS.index(row.answer)]
        for row, answer in zip(rows_of("bert"), view.answers, strict=False)
    ]
    assert count == 3
    assert_close(total, torch.stack(expected).sum())
    assert len(Label(on="other").rows(batch)) == 0
    odd = pack([replace(rows_of("bert")[0], answer="never heard")])
    with pytest.raises(DataError) as caught:
        Label().terms(View(model, odd, packed_states(model, odd, layers=True), None))
    assert caught.value.code == "E-HEAD-ANSWER"


def test_with_lora_both_get_gradients_and_alone_the_body_gets_none():
    for methods, expected in (([Head(labels=LABELS)], set()), ([Head(labels=LABELS), LoRA(rank=2)], {"lora"})):
        model = tiny_model("bert")
        attach(model, methods, "one")
        with torch.no_grad():
            for parameter in model.keeptune.parameters():
                parameter.add_(0.1)
        model.train()
        batch = pack(rows_of("bert"))
        Label().terms(View(model, batch, packed_states(model, batch, layers=True), None))[0].backward()
        moved = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert all(key.startswith("keeptune.") for key in moved)
        assert {"lora" for key in moved if "lora_" in key} == expected
        assert any("weight" in key for key in moved)


def test_a_second_stage_begins_with_the_head_of_the_first():
    model = shaken(tiny_model("bert"), Head(labels=LABELS), "probe")
    attach(model, [Head(labels=LABELS, start_from="probe"), LoRA(rank=2)], "both")
    first, second = (list(model.keeptune.adapter(name).tensors().values()) for name in ("probe", "both"))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=False))
    for wrong in ("nobody", "both2"):
        with pytest.raises(PlanError) as caught:
            Head(labels=LABELS, start_from=wrong).attach(model, "third")
        assert caught.value.code == "E-HEAD-START"
    with pytest.raises(PlanError) as caught:
        Head(labels=[*LABELS, "other"], start_from="probe").attach(model, "third")
    assert caught.value.code == "E-HEAD-START"


@pytest.mark.parametrize(("family", "settings", "code"), [
    ("bert", {}, "E-HEAD-LABELS"),
    ("bert", {"labels": ["one"]}, "E-HEAD-LABELS"),
    ("bert", {"labels": ["one", "one"]}, "E-HEAD-LABELS"),
    ("bert", {"labels": LABELS, "layer": 3}, "E-METHOD-LAYER"),
    ("llama", {"labels": LABELS, "pooling": "cls"}, "E-METHOD-FAMILY"),
])  # fmt: skip
def test_what_cannot_work_is_refused_before_any_compute(family, settings, code):
    model = tiny_model(family)
    for refused in (
        lambda: Head(**settings).attach(model),
        lambda: Head(**settings).cost(ModelShape.from_config(model.config.to_dict())),
    ):
        with pytest.raises(PlanError) as caught:
            refused()
        assert caught.value.code == code


def test_labels_come_from_the_data_unless_they_are_listed():
    assert Head().fitted(["b", "a"]).labels == ["a", "b"]
    assert Head(labels=LABELS).fitted(["b", "a"]).labels == LABELS


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_it_reads_the_states_of_a_base_in_4_bits(family):
    """They are those of the same weights written out wide."""
    model = tiny_model(family)
    put_into_4_bits(model)
    before = model(**inputs_of(family)).logits
    shaken(model, Head(labels=LABELS, kind="mlp", inner=4))
    assert torch.equal(model(**inputs_of(family)).logits, before)
    found = torch.stack([answer.scores for answer in answers(model, pack(rows_of(family)))])
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.keeptune.parameters())
    widen(model)
    wide = torch.stack([answer.scores for answer in answers(model, pack(rows_of(family)))])
    assert_close(found, wide, **CLOSE)
    other = shaken(tiny_model(family), Head(labels=LABELS, kind="mlp", inner=4))
    original = torch.stack([answer.scores for answer in answers(other, pack(rows_of(family)))])
    assert not torch.allclose(found, original, atol=1e-3)


def test_a_prefix_and_a_head_are_p_tuning_v2_as_published():
    model = tiny_model("bert")
    attach(model, [Prefix(length=3, hidden=None), Head(labels=LABELS, pooling="cls")], "one")
    batch = pack(rows_of("bert"))
    with torch.no_grad():
        for parameter in model.keeptune.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    with_prefix = answers(model, batch)
    assert anatomy_of(model).kind == "encoder"
    packed = torch.stack([answer.scores for answer in with_prefix])
    alone = torch.stack([answers(model, pack([row]))[0].scores for row in rows_of("bert")])
    assert_close(packed, alone, rtol=1e-4, atol=1e-4)
