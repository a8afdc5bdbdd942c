"""Rows of several texts: read as the tokenizer of an encoder joins a pair, with its token types."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from keeptune.core.errors import KeeptuneError, PlanError
from keeptune.core.example import Example, Message
from keeptune.core.spec import validate
from keeptune.data.encode import encode_all, encoder_of
from keeptune.data.encoder import Encoded
from keeptune.data.formats import Format
from keeptune.data.formats.prompt_completion import PromptCompletion
from keeptune.data.guess import guess_format
from keeptune.data.place import Place
from keeptune.data.starts import UNSAID
from keeptune.engine.batch import pack
from keeptune.engine.packed import packed_hidden
from keeptune.engine.readout import answers
from keeptune.engine.rows import off
from keeptune.methods import Prompt, PTuning
from keeptune.models.load import load
from keeptune.recipes.recipe import load_recipe
from tests.tiny_models import VOCABULARY, tiny_model

CLS, SEP, MASK = 57, 58, 59
PAIRS = {"bert": "[CLS] $A [SEP] $B:1 [SEP]:1", "roberta": "[CLS] $A [SEP] [SEP] $B [SEP]", "deberta-v2": None}
WORDS = {"bad": "w20", "good": "w22"}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def folder_of(path, family):
    """A tokenizer that joins pairs as the family's own does."""
    tiny_model(family).save_pretrained(path)
    special = {CLS: "[CLS]", SEP: "[SEP]", MASK: "[MASK]"}
    vocabulary = {special.get(number, f"w{number}"): number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel({**vocabulary, "a": 1}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=PAIRS[family] or PAIRS["bert"], special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", model_input_names=["input_ids", "token_type_ids"], **names
    ).save_pretrained(path)
    return path


@pytest.fixture(params=list(PAIRS))
def model(tmp_path, request):
    return load(folder_of(tmp_path / "base", request.param), dtype="float32", device="cpu").model


def pair(a, b):
    return Message("user", f"{a}\n{b}", {"texts": [a, b]})


def encoded(model, *turns):
    encoder = encoder_of(model.loaded.tokenizer, None, "encoder")
    rows = [tuple(encoder.prompt([turn])) for turn in turns]
    return [Encoded(str(n), "task", row, (False,) * len(row)) for n, row in enumerate(rows)]


def test_a_pair_is_joined_and_typed_as_by_the_tokenizer_and_transformers(model):
    """Packed with a single text beside it, against the stock model alone on what its tokenizer makes of two texts."""
    rows = encoded(model, pair("w3 w4 w5", "w6"), Message("user", "w7 w8"), pair("w9", "w10 w11"))
    found = torch.split(packed_hidden(model, pack(rows)), [len(row.tokens) for row in rows])
    for row, states, texts in zip(rows, found, [("w3 w4 w5", "w6"), ("w7 w8",), ("w9", "w10 w11")], strict=True):
        given = model.loaded.tokenizer(*texts, return_tensors="pt")
        assert given["input_ids"][0].tolist() == list(row.tokens)
        if not model.config.type_vocab_size or model.config.type_vocab_size < 2:
            del given["token_type_ids"]
        with torch.no_grad():
            assert_close(states, model.base_model(**given).last_hidden_state[0], **CLOSE)


def test_a_separator_that_a_text_spells_out_ends_no_text(model):
    (row,) = encoded(model, pair("w3 [SEP] w4", "w6"))
    assert list(row.tokens).count(SEP) == len(model.loaded.tokenizer("a", "a")["input_ids"]) - 3


def test_a_long_document_is_read_in_pieces_that_are_each_a_text(model):
    document = Example("d", text=" ".join(f"w{3 + n % 50}" for n in range(20)))
    found = encode_all([document], model.loaded.tokenizer, too_long="split", context=9, kind="encoder").rows
    assert [row.id for row in found] == ["d", "d#2", "d#3"]
    assert all((row.tokens[0], row.tokens[-1]) == (CLS, SEP) for row in found)
    assert [token for row in found for token in row.tokens[1:-1]] == [3 + n % 50 for n in range(20)]
    assert all(row.learned == (False, *[True] * (len(row.tokens) - 2), False) for row in found)


def test_the_second_text_of_bert_has_a_type_of_its_own(tmp_path):
    model = load(folder_of(tmp_path / "base", "bert"), dtype="float32", device="cpu").model
    (row,) = encoded(model, pair("w3 w4", "w6"))
    with torch.no_grad():
        untyped = model.base_model(input_ids=torch.tensor([row.tokens])).last_hidden_state[0]
        assert (packed_hidden(model, pack([row])) - untyped).abs().max() > 1e-3


def test_behind_a_soft_prompt_the_types_stay_with_their_tokens(tmp_path):
    model = load(folder_of(tmp_path / "base", "bert"), dtype="float32", device="cpu").model
    rows = encoded(model, pair("w3 w4", "w6"), pair("w3", "w6 w7"))
    Prompt(length=2, init="uniform").attach(model)
    together = packed_hidden(model, pack(rows))
    alone = torch.cat([packed_hidden(model, pack([row])) for row in rows])
    assert_close(together, alone, **CLOSE)
    given = model.loaded.tokenizer("w3 w4", "w6", return_tensors="pt")
    soft = model.keeptune.adapter("default").placed[0][0].delta.virtual()
    with off(model), torch.no_grad():
        table = model.get_input_embeddings()
        stock = model.base_model(
            inputs_embeds=torch.cat([soft, table(given["input_ids"][0])])[None],
            token_type_ids=torch.cat([torch.zeros(1, 2).long(), given["token_type_ids"]], dim=1),
        ).last_hidden_state[0, 2:]
    assert_close(together[: len(rows[0].tokens)], stock, **CLOSE)


def test_a_template_stands_around_and_between_two_texts(model):
    """Soft tokens set to w30 and w31, as the stock model reads them among words, with the types of a pair."""
    rows = encoded(model, pair("w3 w4 w5", "w6"), pair("w9", "w10 w11"))
    expected = []
    for a, b in (("w3 w4 w5", "w6"), ("w9", "w10 w11")):
        given = model.loaded.tokenizer(f"w30 {a}", f"w8 [MASK] w31 {b} w12", return_tensors="pt")
        at = given["input_ids"][0].tolist().index(MASK)
        if not model.config.type_vocab_size or model.config.type_vocab_size < 2:
            del given["token_type_ids"]
        with torch.no_grad():
            expected.append(model(**given).logits[0, at, [20, 22]])
    template = "{soft:1} {text:premise} w8 {mask} {soft:1} {text:hypothesis} w12"
    PTuning(template=template, verbaliser=WORDS, encoder="none").attach(model)
    with torch.no_grad():
        soft = model.keeptune.adapter("default").placed[0][0].delta.soft
        soft.vectors.copy_(model.get_input_embeddings().weight[[30, 31]])
        found = answers(model, pack(rows))
    for one, wanted in zip(found, expected, strict=True):
        assert_close(one.scores, wanted, **CLOSE)
    with pytest.raises(PlanError) as caught:
        answers(model, pack(encoded(model, Message("user", "w3 w4"))))
    assert caught.value.code == "E-ROWS-TEMPLATE"


def test_several_columns_are_texts_for_an_encoder_and_lines_for_a_decoder(tmp_path):
    form = validate(Format, {"format": "prompt_completion", "path": "f", "prompt": ["a", "b"], "completion": "c"})
    assert isinstance(form, PromptCompletion)
    turn = form.read_row({"a": "w3 w4", "b": "w6", "c": "x"}, Place("f", 1)).messages[0]
    assert (turn.content, turn.extra) == ("w3 w4\nw6", {"texts": ["w3 w4", "w6"]})
    with pytest.raises(KeeptuneError) as caught:
        form.read_row({"a": "w3", "c": "x"}, Place("f", 1))
    assert caught.value.code == "E-DATA-KEY"


def test_two_sentences_and_a_label_are_guessed_as_a_pair(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"pair_ID": "1", "sentence_A": "A man sleeps.", "sentence_B": "Nobody sleeps.", "entailment_judgment": "no"}
    path.write_text(json.dumps(row) + "\n")
    found = guess_format(str(path))
    assert found.format.columns == ("sentence_A", "sentence_B")
    assert found.format.completion == "entailment_judgment"
    assert "prompt: sentence_A and sentence_B" in found.reason


def test_a_recipe_whose_template_names_other_columns_is_refused():
    template = "stages[0].method={name: p_tuning, template: '{text:premise} {soft:2} {mask} {text:claim}'}"
    rows = "data.task={format: prompt_completion, path: x.jsonl, prompt: [premise, hypothesis], completion: label}"
    with pytest.raises(KeeptuneError, match="premise, claim"):
        load_recipe("lora", [rows, template, "proof=null"])
    load_recipe("lora", [rows, template.replace("claim", "hypothesis"), "proof=null"])
    alone = "stages[0].method={name: p_tuning, template: '{soft:2} {text:claim}'}"
    one = rows.replace("[premise, hypothesis]", "premise")
    with pytest.raises(KeeptuneError, match="claim"):
        load_recipe("lora", [one, alone, "proof=null"])
    load_recipe("lora", [one, alone.replace("claim", "premise"), "proof=null"])


def test_a_template_of_several_texts_that_would_serve_every_row_of_the_proof_is_refused():
    template = "stages[0].method={name: p_tuning, template: '{text:premise} {soft:2} {text:hypothesis} {soft:2}'}"
    rows = "data.task={format: prompt_completion, path: x.jsonl, prompt: [premise, hypothesis], completion: label}"
    with pytest.raises(KeeptuneError, match="scope: task"):
        load_recipe("lora", [rows, template])
    load_recipe("lora", [rows, template, "stages[0].scope=task"])
    load_recipe("lora", [rows, template, "proof=null"])


@pytest.mark.parametrize("model", ["bert"], indirect=True)
def test_a_request_says_where_its_texts_begin_where_no_separator_does(model):
    """One text per line in the frame: [CLS] w7 w3 w4 w6 w8 w9 [SEP], and the texts are w3 w4, w6 and w8 w9."""
    turns = [Message("system", "w7"), Message("user", "w3 w4\nw6\nw8 w9", {"texts": ["w3 w4", "w6", "w8 w9"]})]
    example = Example("1", (*turns, Message("assistant", "w20")))
    reader = encoder_of(model.loaded.tokenizer, None, "encoder_decoder")
    assert reader.request(turns).tokens == (CLS, 7, 3, 4, 6, 8, 9, SEP)
    assert reader.request(turns).starts == reader.encode(example).starts == ((4, 5), ())
    assert encoder_of(model.loaded.tokenizer, None, "encoder").request([pair("w3", "w4")]).starts == UNSAID
