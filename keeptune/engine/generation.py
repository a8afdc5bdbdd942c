"""Generation: many prompts at once with a cache, each served by its own adapters.

Prompts are sorted by length and padded on the left; those of an encoder-decoder, which its encoder reads once, on the
right. Greedy by default; with a temperature every prompt draws from its
own generator, so that neither the order nor the company of a prompt changes what it draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from keeptune.data.starts import Starts
from keeptune.engine.attention import use_attention
from keeptune.engine.book import book_of
from keeptune.engine.growing_cache import growing_cache
from keeptune.engine.head import head_of
from keeptune.engine.named_generator import named_generator
from keeptune.engine.positions import refuse_beyond_table, table_of
from keeptune.engine.request_parts import starting
from keeptune.engine.rows import Assignment, serve, serving_of, stack_of
from keeptune.engine.selection import Serving
from keeptune.models.families import FAMILIES

COMPACT_AT = 0.75
"""Finished rows leave the batch when less than this share of it is still being written."""


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: set[int],
    rows: Sequence[Assignment] | None = None,
    starts: Sequence[Starts] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    batch_tokens: int = 8192,
) -> list[list[int]]:
    """Continues every prompt.

    Args:
        model: a causal or encoder-decoder language model.
        tokenizer: of the model; gives the padding token.
        prompts: token ids, at least one each.
        max_new_tokens: at most so many new tokens each; `answer_limits` says where positions end before.
        stop_ids: a prompt's answer ends before the first of these.
        rows: who serves each prompt, as in `keeptune.engine.rows.rows`; None = who serves now.
        starts: of each prompt, where its texts and earlier answers begin.
        temperature: 0 takes the most likely token; otherwise samples from softmax(logits / temperature).
        seed: of the samples.
        batch_tokens: bounds rows x (longest prompt + new tokens) of a batch.

    Returns:
        For each prompt, in order, its new tokens without the stop token.

    Raises:
        PlanError: as `rows`.
        DataError: a prompt is longer than the model's table of positions (E-DATA-LONG).
    """
    assert all(prompts), "a prompt has at least one token"
    assert rows is None or len(rows) == len(prompts), "one entry of rows for each prompt"
    assert starts is None or len(starts) == len(prompts), "one entry of starts for each prompt"
    limits = answer_limits(model, prompts, max_new_tokens, rows)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    answers: list[list[int]] = [[] for _ in prompts]
    family = FAMILIES.get(model.config.model_type)
    writer = _Answering if family is not None and family.kind == "encoder_decoder" else _Writing
    if family is not None:
        use_attention(model)
    with torch.inference_mode(), evaluating(model):
        for batch in _batches([len(prompt) for prompt in prompts], max_new_tokens, batch_tokens):
            draws = None
            if temperature > 0:
                uniform = [torch.rand(max_new_tokens, generator=named_generator(seed, str(row))) for row in batch]
                draws = torch.stack(uniform)
            # What is inside a prompt is read with it: by an encoder at once, by a decoder in its first step.
            with starting(starts and [starts[row].within(len(prompts[row])) for row in batch]):
                writing = writer(model, [prompts[row] for row in batch], pad, rows and [rows[row] for row in batch])
                written = writing.finish([limits[row] for row in batch], stop_ids, temperature, draws)
            for row, answer in zip(batch, written, strict=True):
                answers[row] = answer
    return answers


def answer_limits(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    rows: Sequence[Assignment] | None = None,
) -> list[int]:
    """The most new tokens of each answer: `max_new_tokens`, or what a table of learned positions has left.

    An answer of that length did not come to its end. Arguments and errors as `generate`.
    """
    table = table_of(model)
    if table is None:
        return [max_new_tokens] * len(prompts)
    taken, book = [0] * len(prompts), book_of(model)
    if book is not None:
        stacks = book.serving.stack_of_rows(len(prompts)) if rows is None else map(stack_of, rows)
        taken = [book.room(stack) for stack in stacks]
    ends = [len(prompt) + own for prompt, own in zip(prompts, taken, strict=True)]
    refuse_beyond_table(model, ends)
    return [min(max_new_tokens, table - end) for end in ends]


class _Writing:
    """One batch while it is being written.

    Attributes:
        alive: the rows still in the batch, as indices into the prompts.
        mask: (B, T) of the text so far.
        last: (B, 1) the last position that each row reads, where they are a table; finished rows stay there.
    """

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad: int, assigned: Sequence[Assignment] | None
    ) -> None:
        device = model.get_input_embeddings().weight.device
        longest = max(map(len, prompts))
        padded = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        written = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self.model, self.assigned = model, assigned
        self.serving: Serving | None = None
        self.alive = list(range(len(prompts)))
        self.tokens, self.mask = torch.tensor(padded, device=device), torch.tensor(written, device=device)
        self.cache: Any = growing_cache(model.config)
        self.last: Tensor | None = None

    def finish(
        self, limits: Sequence[int], stop_ids: set[int], temperature: float, draws: Tensor | None
    ) -> list[list[int]]:
        """Writes until every row has stopped or has as many new tokens as its limit."""
        answers: list[list[int]] = [[] for _ in self.alive]
        stopped = {row for row, limit in enumerate(limits) if limit == 0}
        if table_of(self.model) is not None:
            ends = torch.tensor(limits, device=self.mask.device) + self.mask.sum(dim=1)
            self.last = (ends - 1)[:, None]
        for step in range(max(limits)):
            logits = self._step()
            drawn = None if draws is None else draws[self.alive, step]
            tokens = most_likely(logits) if drawn is None else sampled(logits, temperature, drawn)
            for row, token in zip(self.alive, tokens.tolist(), strict=True):
                if token in stop_ids:
                    stopped.add(row)
                elif row not in stopped:
                    answers[row].append(token)
                    if len(answers[row]) == limits[row]:
                        stopped.add(row)
            if len(stopped) == len(answers):
                break
            self.tokens = tokens[:, None]
            self.mask = nn.functional.pad(self.mask, (0, 1), value=1)
            self._compact(stopped)
        return answers

    def _step(self) -> Tensor:
        """(B, V): the logits behind the newest tokens."""
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -self.tokens.shape[1] :]
        if self.last is not None:
            positions = torch.minimum(positions, self.last)
        with self._served():
            output = self.model(
                input_ids=self.tokens,
                attention_mask=self.mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.cache = output.past_key_values
        logits: Tensor = output.logits[:, -1]
        return logits

    def _served(self) -> AbstractContextManager[None]:
        """Each row in the batch by its own adapters, where they are named: for as long as the same rows are in it."""
        if self.assigned and self.serving is None:
            self.serving = serving_of([self.assigned[row] for row in self.alive])
        return nullcontext() if self.serving is None else serve(self.model, self.serving)

    def _compact(self, stopped: set[int]) -> None:
        """Drops finished rows when enough of the batch is finished."""
        kept = [place for place, row in enumerate(self.alive) if row not in stopped]
        if len(kept) >= COMPACT_AT * len(self.alive):
            return
        index = torch.tensor(kept, device=self.tokens.device)
        self.cache.batch_select_indices(index)
        self.tokens, self.mask = self.tokens[index], self.mask[index]
        self.last = None if self.last is None else self.last[index]
        self.alive, self.serving = [self.alive[place] for place in kept], None
        self._keep(index)

    def _keep(self, index: Tensor) -> None:
        """Drops what else belongs to the rows that leave."""


class _Answering(_Writing):
    """One batch of an encoder-decoder: the encoder has read the prompts, the decoder writes from its start token.

    Attributes:
        read: (B, T', D): what the encoder returned; wider than the prompts by its virtual tokens.
        read_mask: (B, T) of the prompts.
    """

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad: int, assigned: Sequence[Assignment] | None
    ) -> None:
        super().__init__(model, [[model.config.decoder_start_token_id]] * len(prompts), pad, assigned)
        self.cache = None  # transformers makes one for both attentions
        device, longest = self.tokens.device, max(map(len, prompts))
        padded = [list(prompt) + [pad] * (longest - len(prompt)) for prompt in prompts]
        real = [[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
        self.read_mask = torch.tensor(real, device=device)
        with self._served():
            given = torch.tensor(padded, device=device)
            self.read = model.get_encoder()(input_ids=given, attention_mask=self.read_mask).last_hidden_state

    def _step(self) -> Tensor:
        """(B, V): the logits behind the newest tokens."""
        with self._served():
            output = self.model.get_decoder()(
                input_ids=self.tokens,
                attention_mask=self.mask,
                encoder_hidden_states=self.read,
                encoder_attention_mask=self.read_mask,
                past_key_values=self.cache,
                use_cache=True,
            )
        self.cache = output.past_key_values
        return head_of(self.model).logits(output.last_hidden_state[:, -1])

    def _keep(self, index: Tensor) -> None:
        """What the encoder said leaves with the rows; the cache of cross attention does so by itself."""
        self.read, self.read_mask = self.read[index], self.read_mask[index]


def most_likely(logits: Tensor) -> Tensor:
    """(B, V) to (B,)."""
    return logits.max(dim=-1).indices  # argmax is six times as slow in bfloat16


def sampled(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """(B,): the token at which the cumulative probability of softmax(logits / temperature) passes `uniform`."""
    cumulative = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    token = torch.searchsorted(cumulative, uniform.to(cumulative)[:, None], right=True)[:, 0]
    return token.clamp(max=logits.shape[-1] - 1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _batches(lengths: Sequence[int], new: int, limit: int) -> Iterator[list[int]]:
    """Groups prompts of similar length, longest first, so that memory runs out at once or never."""
    batch: list[int] = []
    widest = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batch and (len(batch) + 1) * (widest + new) > limit:
            yield batch
            batch = []
        widest = widest if batch else lengths[row]
        batch.append(row)
    if batch:
        yield batch
