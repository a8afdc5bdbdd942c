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
from keeptune.engine.generation import generate
from keeptune.engine.head import head_logits
from keeptune.engine.packed import packed_hidden
from keeptune.engine.readout import answers
from keeptune.engine.rows import active, off, rows
from keeptune.methods import Head, LoRA, Method, Prompt, PTuning, load_adapter, save_adapter
from keeptune.models.load import load
from tests.contracts.test_methods import PadZero
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


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_before_the_answer_of_a_decoder_words_and_soft_tokens_stand_as_written(tmp_path, family):
    """Soft tokens set to w30, w31: w30 w5 x w6 w31 y through the stock model alone; the tokenizer's frame is text."""
    model = load(folder_of(tmp_path / "base", family), dtype="float32", device="cpu").model
    wanted = model(input_ids=torch.tensor([[30, 5, CLS, 10, 11, 6, 31, 12, 13]])).logits[0, [2, 3, 6, 7, 8]]
    PTuning(template="{soft:1} w5 {text} w6 {soft:1}", encoder="none").attach(model)
    with torch.no_grad():
        soft_of(model).vectors.copy_(model.get_input_embeddings()(torch.tensor([30, 31])))
    asked = Encoded("", "", (CLS, 10, 11, 12, 13), (False, False, False, True, True))
    assert_close(head_logits(model, packed_hidden(model, pack([asked]))), wanted, **CLOSE)


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
        ("llama", {"template": "{soft:2} {text} {mask}", "verbaliser": WORDS}, "E-METHOD-TEMPLATE"),
        ("gpt2", {"template": "{text} {mask} {soft:2}", "verbaliser": WORDS}, "E-METHOD-TEMPLATE"),
        ("t5", {"template": "{soft:2} {text} {mask}", "verbaliser": WORDS}, "E-METHOD-TEMPLATE"),
        ("bart", {"template": "{text:first} {soft:2} {mask} {text:second}", "verbaliser": WORDS}, "E-METHOD-TEMPLATE"),
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
    places = {"E-METHOD-TEMPLATE": "template", "E-METHOD-VERBALISER": "verbaliser"}
    assert caught.value.where.get("key") == places.get(code)
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


AROUND = "{soft:1} w5 {text} w6 {soft:2}"


def written(tmp_path, family):
    """An encoder-decoder whose soft tokens are w30, w31 and w32, with what stands around a text."""
    model = load(folder_of(tmp_path / "base", family), dtype="float32", device="cpu").model.double()
    PTuning(template=AROUND, encoder="none").attach(model, "ana")
    with torch.no_grad():
        soft_of(model, "ana").vectors.copy_(model.get_input_embeddings()(torch.tensor([30, 31, 32])))
    return model


def with_words(*text):
    """w30 w5 [CLS] x w6 w31 w32 [SEP]."""
    return torch.tensor([[30, 5, CLS, *text, 6, 31, 32, SEP]])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_around_the_text_of_an_encoder_decoder_stand_the_words_of_the_stock_model(tmp_path, family, side):
    """Rows of other lengths, one with a prompt and one with nothing; the decoder reads what the encoder gives."""
    model, answer = written(tmp_path, family), torch.tensor([[3, 4]])
    Prompt(length=2, init="uniform").attach(model, "bo")
    stacks, asked = ["ana", "bo", None, "ana"], [(10, 11, 12), (13, 14), (15,), (16,)]
    whole = [torch.tensor([CLS, *text, SEP]) for text in asked]
    width = max(map(len, whole))
    ids, mask = (torch.zeros(len(whole), width, dtype=torch.long) for _ in range(2))
    for number, text in enumerate(whole):
        plain = family == "bart" or stacks[number] is None
        place = slice(width - len(text), width) if side == "left" and not plain else slice(0, len(text))
        ids[number, place], mask[number, place] = text, 1
    with rows(model, stacks):
        found = model(ids, attention_mask=mask, decoder_input_ids=answer.expand(4, -1)).logits
    for number, text in enumerate(asked):
        if stacks[number] == "ana":
            with off(model):
                wanted = model(with_words(*text), decoder_input_ids=answer).logits[0]
        else:
            with rows(model, [stacks[number]]):
                wanted = model(whole[number][None], decoder_input_ids=answer).logits[0]
        assert_close(found[number], wanted, **CLOSE)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_what_stands_around_the_text_is_written_behind_searched_and_never_pooled(tmp_path, family):
    model = written(tmp_path, family)
    model.generation_config.forced_eos_token_id = None
    texts = [(10, 11, 12), (13,)]
    search = {"num_beams": 2, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    ids, mask = torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long)
    for number, text in enumerate(texts):
        ids[number, : len(text) + 2], mask[number, : len(text) + 2] = torch.tensor([CLS, *text, SEP]), 1
    beams = model.generate(ids, attention_mask=mask, **search)
    prompts = [[CLS, *text, SEP] for text in texts]
    greedy = generate(model, PadZero(), prompts, max_new_tokens=4, stop_ids=set())
    Head(labels=["no", "yes"], layer=1).attach(model, "head")
    with torch.no_grad():
        for parameter in model.keeptune.adapter("head").parameters():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(3))
    with active(model, ["ana", "head"]):
        read = [answer.scores for answer in answers(model, pack([row(*text) for text in texts]))]
    net = model.keeptune.adapter("head").placed[0][0].delta
    for number, text in enumerate(texts):
        with off(model):
            assert torch.equal(beams[number], model.generate(with_words(*text), **search)[0])
            assert (
                greedy[number]
                == generate(model, PadZero(), with_words(*text).tolist(), max_new_tokens=4, stop_ids=set())[0]
            )
            states = model.get_encoder()(with_words(*text), output_hidden_states=True).hidden_states[1][0]
        own = torch.cat([states[2 : 3 + len(text)], states[-1:]])
        assert_close(read[number], net.of_pooled(own.mean(dim=0)[None])[0], **CLOSE)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_around_the_text_of_an_encoder_decoder_rows_are_packed_as_they_are_padded(tmp_path, family):
    model = written(tmp_path, family)
    asked, said = [(10, 11, 12), (13,)], [(3, 4, 5), (6, 7)]
    encoded = [
        Encoded("", "", (CLS, *ask, SEP, *say), (False,) * (len(ask) + 2) + (True,) * len(say))
        for ask, say in zip(asked, said, strict=True)
    ]
    batch = pack(encoded)
    hidden, start = packed_hidden(model, batch), model.config.decoder_start_token_id
    for ask, say, offset in zip(asked, said, batch.offsets, strict=False):
        with off(model):
            wanted = model(with_words(*ask), decoder_input_ids=torch.tensor([[start, *say[:-1]]])).logits[0]
        place = offset + len(ask) + 1
        assert_close(head_logits(model, hidden[place : place + len(say)]), wanted, **CLOSE)
