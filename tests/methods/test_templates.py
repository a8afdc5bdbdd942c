"""P-tuning with a template: stock models on the same words, a plain loop, and what every method promises."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from keeptune.core.errors import KeeptuneError, PlanError
from keeptune.core.shape import ModelShape
from keeptune.core.spec import validate
from keeptune.data.encoder import Encoded
from keeptune.engine.batch import pack
from keeptune.engine.book import detach
from keeptune.engine.readout import answers
from keeptune.engine.rows import active, off, rows
from keeptune.methods import Head, LoRA, Method, Prompt, PTuning, load_adapter, save_adapter
from keeptune.models.load import load
from tests.tiny_models import VOCABULARY, tiny_model

CLOZE = ["bert", "roberta", "deberta-v2", "modernbert"]
CLS, SEP, MASK = 57, 58, 59
TEMPLATE = "{soft:2} {text} w5 w6 {mask} {soft:1} w7"
WORDS = {"bad": "w20", "fine": "w21", "good": "w22"}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def folder_of(path, family):
    """A folder whose tokenizer frames texts as `[CLS] ... [SEP]` and has a mask, as BERT's does."""
    tiny_model(family).save_pretrained(path)
    special = {CLS: "[CLS]", SEP: "[SEP]", MASK: "[MASK]"}
    vocabulary = {special.get(number, f"w{number}"): number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", **names).save_pretrained(path)
    return path


@pytest.fixture(params=CLOZE)
def family(request):
    return request.param


@pytest.fixture
def model(tmp_path, family):
    return load(folder_of(tmp_path / "base", family), dtype="float32", device="cpu").model


def bert(tmp_path):
    return load(folder_of(tmp_path / "base", "bert"), dtype="float32", device="cpu").model


def row(*tokens, name="r"):
    return Encoded(name, "task", (CLS, *tokens, SEP), (False,) * (len(tokens) + 2))


def soft_of(model, name="default"):
    return model.keeptune.adapter(name).placed[0][0].delta.soft


def scores(model, *texts):
    with torch.no_grad():
        return [answer.scores for answer in answers(model, pack([row(*text) for text in texts]))]


def test_with_the_embeddings_of_words_it_is_the_stock_model_on_those_words(model):
    """Soft tokens set to w30, w31, w32: [CLS] w30 w31 x w5 w6 [MASK] w32 w7 [SEP] through transformers alone."""
    texts = [(10, 11, 12), (13,), (14, 15, 16, 17, 18)]
    expected = []
    for text in texts:
        ids = torch.tensor([[CLS, 30, 31, *text, 5, 6, MASK, 32, 7, SEP]])
        expected.append(model(input_ids=ids).logits[0, 5 + len(text), [20, 21, 22]])
    PTuning(template=TEMPLATE, verbaliser=WORDS, encoder="none").attach(model)
    with torch.no_grad():
        soft_of(model).vectors.copy_(model.get_input_embeddings().weight[[30, 31, 32]])
    for found, wanted in zip(scores(model, *texts), expected, strict=True):
        assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert answers(model, pack([row(10)]))[0].labels == ("bad", "fine", "good")


@pytest.mark.parametrize("encoder", ["lstm", "mlp", "none"])
def test_a_plain_loop_over_embeddings_gives_the_same(tmp_path, encoder):
    model = bert(tmp_path)
    PTuning(template=TEMPLATE, verbaliser=WORDS, encoder=encoder, hidden=8).attach(model, seed=2)
    soft, table = soft_of(model).virtual().detach(), model.get_input_embeddings().weight
    sequence = [table[CLS], soft[0], soft[1], table[10], table[5], table[6], table[MASK], soft[2], table[7], table[SEP]]
    with off(model):
        stock = model(inputs_embeds=torch.stack(sequence)[None]).logits[0, 6, [20, 21, 22]]
    assert_close(scores(model, (10,))[0], stock, **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_state_of_the_text(model, side):
    PTuning(template=TEMPLATE, verbaliser=WORDS, encoder="none").attach(model)
    texts = [(10, 11, 12), (13,)]
    whole = [torch.tensor([CLS, *text, SEP]) for text in texts]
    width = max(map(len, whole))
    ids, mask = torch.ones(2, width, dtype=torch.long), torch.zeros(2, width, dtype=torch.long)
    for number, text in enumerate(whole):
        place = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        ids[number, place], mask[number, place] = text, 1
    together = model(input_ids=ids, attention_mask=mask).logits
    for number, text in enumerate(whole):
        alone = model(input_ids=text[None]).logits[0]
        assert_close(together[number][mask[number].bool()], alone, rtol=1e-4, atol=1e-4)


def test_rows_with_templates_a_head_and_none_give_what_each_gives_alone(tmp_path):
    model = bert(tmp_path)
    PTuning(template=TEMPLATE, verbaliser=WORDS).attach(model, "ana", seed=1)
    PTuning(template="{text} {mask} {soft:4}", verbaliser=WORDS).attach(model, "bo", seed=2)
    LoRA(rank=2).attach(model, "low", seed=3)
    with torch.no_grad():
        for parameter in model.keeptune.adapter("low").parameters():
            parameter.normal_(0, 0.2)
    Head(labels=["no", "yes"]).attach(model, "head")
    texts = [(10, 11, 12), (13,), (14, 15), (16, 17, 18, 19)]
    stacks = [("ana",), ("bo",), ("low", "ana"), ("head",)]
    ids, mask = torch.zeros(5, 6, dtype=torch.long), torch.zeros(5, 6, dtype=torch.long)
    for number, text in enumerate([*texts, (20,)]):
        ids[number, : len(text) + 2], mask[number, : len(text) + 2] = torch.tensor([CLS, *text, SEP]), 1
    alone = []
    for text, stack in zip(texts, stacks, strict=True):
        with active(model, stack):
            alone.append(scores(model, text)[0])
    batch = pack([row(*text) for text in texts], adapters=stacks)
    with torch.no_grad():
        for found, wanted in zip(answers(model, batch), alone, strict=True):
            assert_close(found.scores, wanted, **CLOSE)
    with rows(model, [*stacks, None]):
        last = model(input_ids=ids, attention_mask=mask).logits[4][mask[4].bool()]
    with off(model):
        assert_close(last, model(input_ids=ids[4:, :3]).logits[0], **CLOSE)


def test_taken_off_the_base_is_bitwise_what_it_was(model):
    ids = torch.tensor([[CLS, 10, 11, SEP]])
    before, names = model(input_ids=ids).logits, list(model.state_dict())
    PTuning(template=TEMPLATE, verbaliser=WORDS).attach(model)
    assert not torch.equal(model(input_ids=ids).logits, before)
    with off(model):
        assert torch.equal(model(input_ids=ids).logits, before)
    detach(model, "default")
    assert torch.equal(model(input_ids=ids).logits, before)
    assert list(model.state_dict()) == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_file_keeps_the_soft_tokens_and_opens_for_training(tmp_path, model, family):
    PTuning(template=TEMPLATE, verbaliser=WORDS).attach(model, "ana", seed=4)
    save_adapter(model, "ana", tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "adapter.json").read_text())["settings"]["template"] == TEMPLATE
    fresh = load(tmp_path / "base", dtype="float32", device="cpu").model
    load_adapter(fresh, tmp_path / "saved", "bo", trainable=True)
    assert torch.equal(soft_of(fresh, "bo").virtual(), soft_of(model, "ana").virtual())
    for found, wanted in zip(scores(fresh, (10, 11), (12,)), scores(model, (10, 11), (12,)), strict=True):
        assert_close(found, wanted, **CLOSE)
    assert [tuple(p.shape) for p in fresh.keeptune.parameters()] == [(3, 32)]
    answers(fresh, pack([row(10, 11)]))[0].scores.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in fresh.keeptune.parameters())


def test_the_soft_tokens_alone_learn_which_word_belongs_to_a_text(tmp_path):
    model = bert(tmp_path)
    PTuning(template=TEMPLATE, verbaliser=WORDS).attach(model, seed=1)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in model.keeptune.parameters()}
    texts = [(10, 11), (30, 31), (50, 51)]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    for _ in range(60):
        said = torch.stack([answer.scores for answer in answers(model, pack([row(*text) for text in texts]))])
        loss = torch.nn.functional.cross_entropy(said, torch.tensor([2, 0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [int(found.argmax()) for found in scores(model, *texts)] == [2, 0, 1]


@pytest.mark.parametrize("encoder", ["lstm", "mlp", "none"])
def test_the_count_is_that_of_the_soft_tokens_and_their_encoder(tmp_path, encoder):
    model, method = bert(tmp_path), PTuning(template=TEMPLATE, verbaliser=WORDS, encoder=encoder)
    method.attach(model)
    cost = method.cost(ModelShape.from_config(model.config.to_dict()))
    assert cost.trainable_parameters == sum(p.numel() for p in model.keeptune.parameters())
    assert cost.stored_bytes == 4 * 3 * 32


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_in_front_of_a_writing_model_words_and_soft_tokens_stand_as_written(tmp_path, family):
    """Soft tokens set to w30, w31: w5 w30 w6 w31 x through the stock model alone."""
    model = load(folder_of(tmp_path / "base", family), dtype="float32", device="cpu").model
    extra = {"decoder_input_ids": torch.tensor([[3, 4]])} if family == "t5" else {}
    wanted = model(input_ids=torch.tensor([[5, 30, 6, 31, 10, 11]]), **extra).logits
    PTuning(template="w5 {soft:1} w6 {soft:1} {text:named}", encoder="none").attach(model)
    with torch.no_grad():
        embedded = model.get_input_embeddings()(torch.tensor([30, 31]))
        soft_of(model).vectors.copy_(embedded)
    found = model(input_ids=torch.tensor([[10, 11]]), **extra).logits
    assert_close(found, wanted if family == "t5" else wanted[:, 4:], **CLOSE)


@pytest.mark.parametrize(
    "template",
    [
        "{soft:3}",
        "{text} {text} {soft:1}",
        "{text} {text:second} {soft:1}",
        "{text} {mask} {mask} {soft:1}",
        "{text} w5",
        "{txt} {soft:1}",
        "{soft:0}{text}",
    ],
)
def test_a_template_that_says_nothing_sound_is_refused_as_it_is_written(template):
    with pytest.raises(KeeptuneError):
        validate(Method, {"name": "p_tuning", "template": template})


@pytest.mark.parametrize(
    ("family", "settings", "code"),
    [
        ("llama", {"template": "{soft:2} {text} {soft:1}"}, "E-METHOD-TEMPLATE"),
        ("t5", {"template": "{soft:2} {text} {mask}", "verbaliser": WORDS}, "E-METHOD-TEMPLATE"),
        ("bert, bare", {"template": TEMPLATE, "verbaliser": WORDS}, "E-MODEL-CLOZE"),
        ("bert", {"template": TEMPLATE}, "E-METHOD-VERBALISER"),
        ("bert", {"template": TEMPLATE, "verbaliser": {"a": "w20 w21", "b": "w22"}}, "E-METHOD-VERBALISER"),
        ("bert", {"template": TEMPLATE, "verbaliser": {"a": "w20", "b": "w20"}}, "E-METHOD-VERBALISER"),
        ("bert", {"template": TEMPLATE, "verbaliser": {"a": "strange", "b": "w20"}}, "E-METHOD-VERBALISER"),
    ],
)
def test_what_cannot_work_is_refused_by_name(tmp_path, family, settings, code):
    model = load(folder_of(tmp_path / "base", family), dtype="float32", device="cpu").model
    with pytest.raises(PlanError) as caught:
        PTuning(**settings).attach(model)
    assert caught.value.code == code
    assert caught.value.fix
    assert not hasattr(model, "keeptune")


def test_a_row_takes_one_template_and_no_prompt_beside_it(tmp_path):
    model = bert(tmp_path)
    PTuning(template=TEMPLATE, verbaliser=WORDS).attach(model, "ana")
    Prompt(length=2, init="uniform").attach(model, "bo")
    with active(model, ["ana", "bo"]), pytest.raises(PlanError) as caught:
        model(input_ids=torch.tensor([[CLS, 10, SEP]]))
    assert caught.value.code == "E-ROWS-TEMPLATE"
    with active(model, ["ana"]):
        model(input_ids=torch.tensor([[CLS, 10, SEP]]))
    with active(model, ["bo"]):
        model(input_ids=torch.tensor([[CLS, 10, SEP]]))


def test_checkpointing_leaves_the_gradients_as_they_are(tmp_path):
    found = []
    for checkpointing in (False, True):
        model = bert(tmp_path)
        PTuning(template=TEMPLATE, verbaliser=WORDS).attach(model, seed=1)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        answers(model, pack([row(10, 11), row(12)]))[0].scores.sum().backward()
        found.append([p.grad.clone() for p in model.keeptune.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
