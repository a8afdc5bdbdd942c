"""Where virtual tokens stand in an encoder: a prompt before `[CLS]`, as PEFT's, a template behind it, as the authors'.

The oracle builds `inputs_embeds` of one row for the stock forward pass of transformers, which numbers the positions.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from keeptune.core.errors import PlanError
from keeptune.engine.batch import pack
from keeptune.engine.readout import answers
from keeptune.engine.rows import active, off
from keeptune.methods import Head, Prompt, PTuning
from keeptune.models.load import load
from tests.methods.test_templates import CLOZE, CLS, MASK, SEP, WORDS, folder_of, row
from tests.tiny_models import tiny_model

TEXTS = [(10, 11, 12), (13,), (14, 15, 16, 17, 18)]
MADE = {
    "before": Prompt(length=3, init="uniform"),
    "inside": PTuning(template="{soft:3} {text}", encoder="none"),
    "masked": PTuning(template="{soft:3} {text} {mask}", verbaliser=WORDS, encoder="none"),
}
"""`[P; CLS; x; SEP]`, `[CLS; P; x; SEP]` and `[CLS; P; x; MASK; SEP]`."""
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=CLOZE)
def model(request, tmp_path):
    return load(folder_of(tmp_path / "base", request.param), dtype="float32", device="cpu").model


def adapted(model, place):
    MADE[place].attach(model, place, seed=1)
    with torch.no_grad():
        for parameter in model.keeptune.adapter(place).parameters():
            parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(3))
    return model


def by_hand(model, place, text, **asked):
    """What the stock model says of one row, and which of its columns are the row's own tokens."""
    soft = next(model.keeptune.adapter(place).parameters())
    masked = place == "masked"
    embedded = model.get_input_embeddings()(torch.tensor([CLS, *text, *([MASK] if masked else []), SEP]))
    cut = 0 if place == "before" else 1
    own = [0 if cut else 3, *range(4, 4 + len(text)), 4 + len(text) + masked]
    with off(model):
        return model(inputs_embeds=torch.cat([embedded[:cut], soft, embedded[cut:]])[None], **asked), own


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("place", ["before", "inside"])
def test_every_token_is_what_the_stock_model_says_of_the_row_written_out(model, place, side):
    """So the loss of a masked token is too: it reads these logits."""
    adapted(model, place)
    width = max(map(len, TEXTS)) + 2
    ids, mask = torch.ones(len(TEXTS), width, dtype=torch.long), torch.zeros(len(TEXTS), width, dtype=torch.long)
    for number, text in enumerate(TEXTS):
        whole = torch.tensor([CLS, *text, SEP])
        columns = slice(width - len(whole), width) if side == "left" else slice(0, len(whole))
        ids[number, columns], mask[number, columns] = whole, 1
    found = model(input_ids=ids, attention_mask=mask).logits
    for number, text in enumerate(TEXTS):
        output, own = by_hand(model, place, text)
        assert_close(found[number][mask[number].bool()], output.logits[0, own], **CLOSE)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("place", ["before", "inside"])
def test_a_head_pools_the_rows_own_tokens(model, place, pooling):
    """`cls` is the state of `[CLS]` wherever that stands, `mean` leaves virtual tokens out."""
    adapted(model, place)
    Head(labels=["no", "yes"], pooling=pooling, layer=1).attach(model, "head")
    with torch.no_grad():
        for parameter in model.keeptune.adapter("head").parameters():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(5))
    net = model.keeptune.adapter("head").placed[0][0].delta
    batch = pack([row(*text) for text in TEXTS], adapters=[(place, "head")] * len(TEXTS))
    for text, found in zip(TEXTS, answers(model, batch), strict=True):
        output, own = by_hand(model, place, text, output_hidden_states=True)
        states = output.hidden_states[1][0, own]
        pooled = states[0] if pooling == "cls" else states.mean(dim=0)
        assert_close(found.scores, net.of_pooled(pooled[None])[0], **CLOSE)


def test_the_words_of_labels_are_read_at_the_mask(model):
    adapted(model, "masked")
    with active(model, "masked"):
        found = answers(model, pack([row(*text) for text in TEXTS]))
    for text, answer in zip(TEXTS, found, strict=True):
        output, _ = by_hand(model, "masked", text)
        assert_close(answer.scores, output.logits[0, 4 + len(text), [20, 21, 22]], **CLOSE)


def test_a_template_needs_the_frame_of_the_encoders_tokenizer():
    with pytest.raises(PlanError) as caught:
        MADE["inside"].attach(tiny_model("bert"))
    assert caught.value.code == "E-MODEL-FOREIGN"
