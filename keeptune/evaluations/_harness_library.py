"""The one file that imports lm-evaluation-harness: its tasks, asked of a subject of ours, with a record per item."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import lm_eval
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from keeptune.core.errors import KeeptuneError, RecipeError
from keeptune.core.score import Item, Score
from keeptune.data.suite import HarnessTask
from keeptune.engine.generation import generate
from keeptune.engine.positions import table_of
from keeptune.engine.scored import Scored
from keeptune.engine.scoring import greedy_logprobs
from keeptune.evaluations import Context, Subject
from keeptune.evaluations._likelihood import context_of
from keeptune.evaluations._summary import summarise

VERSION = str(lm_eval.__version__)
LONGEST_ANSWER = 256
Pair = tuple[tuple[str, str], list[int], list[int]]


def harness_score(subject: Subject, task: HarnessTask, context: Context) -> Score:
    """Asks all items of a task, pooled over its parts; what is active on the model stays active.

    Raises:
        RecipeError: the harness knows no such task, or the metric is none of its means over items (E-SUITE-HARNESS).
    """
    asked = json.loads(task.task) if task.task.startswith("{") else task.task
    try:
        # The harness prints as it goes; both outputs belong to the command line.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = lm_eval.simple_evaluate(
                model=_Asked(subject, context, task.name), tasks=[asked], limit=task.most, log_samples=True,
                bootstrap_iters=0, random_seed=context.seed, numpy_random_seed=context.seed,
                torch_random_seed=context.seed, fewshot_random_seed=context.seed,
            )  # fmt: skip
    except KeeptuneError:
        raise
    except Exception as error:
        raise _refused(task, f"the harness could not ask '{task.name}': {_first_line(error)}") from error
    assert found is not None, "one process has the results"
    items, chances = [], []
    for part, every in sorted(found["samples"].items()):
        # A task may read its answers by several rules; its first is the task's own.
        samples = [sample for sample in every if sample["filter"] == every[0]["filter"]]
        metric = _metric_of(task, found["configs"][part], samples)
        for sample in samples:
            items.append(_item(task, part, sample, metric, context.seed))
            chances.append(1 / len(sample["arguments"]) if _is_choice(found["configs"][part]) else 0.0)
    return summarise(task.name, "accuracy", metric, items, chance=sum(chances) / len(chances))


logging.getLogger("lm_eval").setLevel(logging.ERROR)


class _Asked(TemplateLM):  # type: ignore[misc]
    """A subject as the harness wants to see a model: it tokenises by its own rules, and we compute."""

    def __init__(self, subject: Subject, context: Context, what: str) -> None:
        super().__init__()
        self.subject, self.context, self.what = subject, context, what
        self.tokenizer = subject.tokenizer
        # Scoring reads a row's last token too, which needs a learned position of its own.
        self.longest = context_of(subject.model) - (table_of(subject.model) is not None)

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        chosen = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        opened = self.tokenizer.decode([self.prefix_token_id])
        if add_special_tokens is None and opened and string.startswith(opened):
            chosen = {"add_special_tokens": False}
        return [int(token) for token in self.tokenizer(string, verbose=False, **chosen)["input_ids"]]

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_: Any) -> list[tuple[float, bool]]:
        rows = [self._row(before, scored) for _, before, scored in requests]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place].tokens))
        found: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
        done = 0
        for part in _parts(order, 512):
            chosen, limit = [rows[place] for place in part], self.context.batch_tokens
            for place, own in zip(part, greedy_logprobs(self.subject.model, chosen, limit), strict=True):
                found[place] = own
            done += len(part)
            self.context.tell(self.what, done, len(rows))
        return found

    def _row(self, before: Sequence[int], scored: Sequence[int]) -> Scored:
        """The last tokens that the model can read; one more than its context, since the last is never read."""
        tokens = (*before, *scored)[-(self.longest + 1) :]
        return Scored(tokens, max(1, len(tokens) - len(scored)))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        sums = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.longest, 1)
            pairs = [(("", ""), *make_disjoint_window(window)) for window in windows]
            sums.append(sum(value for value, _ in self._loglikelihood_tokens(pairs)))
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        answers = []
        for number, (prompt, settings) in enumerate(request.args for request in requests):
            until = settings.get("until") or []
            limit = int(settings.get("max_gen_toks", LONGEST_ANSWER))
            if settings.get("do_sample") or float(settings.get("temperature") or 0) > 0:
                raise RecipeError(
                    f"'{self.what}' samples its answers, and a proof compares greedy ones.", code="E-SUITE-HARNESS",
                    fix="Set `do_sample: false` in the task's `generation_kwargs`.",
                )  # fmt: skip
            tokens = self.tok_encode(prompt)[-max(1, self.longest - limit) :]
            (made,) = generate(
                self.subject.model, self.tokenizer, [tokens], max_new_tokens=limit, stop_ids={self.eot_token_id}
            )
            text = self.tokenizer.decode(made, skip_special_tokens=True)
            for stop in [until] if isinstance(until, str) else until:
                text = text.split(stop)[0] if stop else text
            answers.append(text)
            self.context.tell(self.what, number + 1, len(requests))
        return answers


def _item(task: HarnessTask, part: str, sample: dict[str, Any], metric: str, seed: int) -> Item:
    """The harness's record as ours."""
    asked = sample["arguments"]
    answers = [answer[0] if isinstance(answer, (list, tuple)) else answer for answer in sample["filtered_resps"]]
    gold, said, likelihood = str(sample["target"]), "", None
    if len(asked) > 1 and len(answers) == len(asked):
        best = max(range(len(answers)), key=lambda place: float(answers[place]))
        said = str(asked[best][1]).strip()
        if gold.isdigit() and int(gold) < len(asked):
            likelihood, gold = float(answers[int(gold)]), str(asked[int(gold)][1]).strip()
    else:
        said = str(answers[0])
    return Item(
        id=f"{part}/{sample['doc_id']}", task=task.name, score=float(sample[metric]), prompt=str(asked[0][0]),
        gold=gold, prediction=said, gold_logprob=likelihood, seed=seed,
    )  # fmt: skip


def _metric_of(task: HarnessTask, config: dict[str, Any], samples: Sequence[dict[str, Any]]) -> str:
    """The metric that is asked for, or the task's first: a mean over items of which more is better."""
    listed = [entry for entry in config.get("metric_list", []) if entry.get("higher_is_better", True)]
    means = [str(entry["metric"]) for entry in listed if str(entry.get("aggregation", "mean")) == "mean"]
    known = [name for name in means if samples and isinstance(samples[0].get(name), (int, float))]
    wanted = task.metric or (known[0] if known else "")
    if wanted not in known:
        raise _refused(task, f"'{task.name}' has no metric '{wanted}' that is a mean over items. It has: {known}.")
    return wanted


def _is_choice(config: dict[str, Any]) -> bool:
    return config.get("output_type") == "multiple_choice"


def _refused(task: HarnessTask, what: str) -> RecipeError:
    return RecipeError(
        what, code="E-SUITE-HARNESS", where={"key": task.name},
        fix="`lm-eval ls tasks` lists the harness's tasks; see docs/evaluation.md for one of your own.",
    )  # fmt: skip


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _parts(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
