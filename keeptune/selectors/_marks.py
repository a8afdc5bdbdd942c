"""A model's marks for requests and answers, from 1 to 6: the mean of its own distribution over the six."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keeptune.core.errors import PlanError
from keeptune.core.example import Example, Message
from keeptune.selectors import Context, model_of
from keeptune.selectors._states import context_length, in_batches

if TYPE_CHECKING:
    from keeptune.data.encode import Encoder
    from keeptune.models.load import Loaded

MARKS = ("1", "2", "3", "4", "5", "6")
BATCH_TOKENS = 4096
COMPLEXITY = (
    "How much does the following request demand of whoever answers it? Say 1 for hardly anything and 6 for a great "
    "deal, and nothing but the number.\n\nRequest:\n{request}"
)
QUALITY = (
    "How well does the following answer serve the request above it? Say 1 for badly and 6 for as well as anybody "
    "could, and nothing but the number.\n\nRequest:\n{request}\n\nAnswer:\n{answer}"
)


def complexity_and_quality(examples: Sequence[Example], context: Context) -> list[list[tuple[float, float]]]:
    """For each example, turn by turn, the expected mark of the request and of its answer; documents have no turns.

    Raises:
        PlanError: there is no decoder (E-SELECT-MODEL), or its tokenizer cannot tell the marks apart (E-SELECT-MARKS).
    """
    loaded = model_of(context)
    turns = [_turns(example) for example in examples]
    asked = [
        question
        for own in turns
        for request, answer in own
        for question in (COMPLEXITY.replace("{request}", request), _quality(request, answer))
    ]
    marks = iter(_expected(asked, loaded))
    return [[(next(marks), next(marks)) for _ in own] for own in turns]


def _turns(example: Example) -> list[tuple[str, str]]:
    """Each answer with the turn of the user before it."""
    found, request = [], ""
    for turn in example.messages:
        if turn.role == "user":
            request = turn.content
        elif turn.role == "assistant" and request:
            found.append((request, turn.content))
    return found


def _quality(request: str, answer: str) -> str:
    """Both texts are put in at once: what stands in one is never read as a place for the other."""
    before, between, behind = QUALITY.replace("{answer}", "{request}").split("{request}")
    return f"{before}{request}{between}{answer}{behind}"


def _expected(questions: Sequence[str], loaded: Loaded) -> list[float]:
    """sum_k k p(k | k in 1 ... 6) for the first token of the answer to each question."""
    import torch

    from keeptune.data.encode import Encoded, Encoder
    from keeptune.engine.batch import pack
    from keeptune.engine.generation import evaluating
    from keeptune.engine.head import head_of
    from keeptune.engine.packed import packed_hidden
    from keeptune.engine.rows import off

    encoder = Encoder(loaded.tokenizer)
    ids, longest = _first_tokens(encoder, loaded.tokenizer), context_length(loaded)
    rows = []
    for question in questions:
        tokens = encoder.prompt([Message("user", question)])
        # The question stands first: of a text too long for the model the middle is left out.
        tokens = tokens if len(tokens) <= longest else [*tokens[: longest // 2], *tokens[-(longest - longest // 2) :]]
        rows.append(Encoded("", "", tuple(tokens), (False,) * len(tokens)))
    marks = torch.arange(1, len(MARKS) + 1, dtype=torch.float32)
    found = [0.0] * len(rows)
    with torch.inference_mode(), evaluating(loaded.model), off(loaded.model):
        for places in in_batches([len(row.tokens) for row in rows], BATCH_TOKENS):
            batch = pack([rows[place] for place in places])
            ends = torch.tensor(batch.offsets[1:]) - 1
            hidden = packed_hidden(loaded.model, batch.read_at(ends))
            logits = head_of(loaded.model).logits(hidden[ends.to(hidden.device)])[:, ids].cpu()
            for place, mean in zip(places, (logits.softmax(-1) @ marks).tolist(), strict=True):
                found[place] = mean
    return found


def _first_tokens(encoder: Encoder, tokenizer: Any) -> list[int]:
    """With which token the answer "1" begins, "2", and so on."""
    asked = Message("user", "?")
    start = len(encoder.prompt([asked]))
    ids = [encoder.encode(Example("", (asked, Message("assistant", mark)))).tokens[start] for mark in MARKS]
    if len(set(ids)) < len(MARKS):
        raise PlanError(
            f"the tokenizer {type(tokenizer).__name__} begins several of the numbers 1 to 6 with the same token.",
            code="E-SELECT-MARKS",
            fix="Use another model for the marks.",
        )
    return ids
