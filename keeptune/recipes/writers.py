"""Who writes synthetic data: a local model, or an OpenAI-compatible server on this machine."""

from __future__ import annotations

import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from keeptune.core.errors import MachineError, RecipeError
from keeptune.core.example import Message
from keeptune.recipes.recipe import Model
from keeptune.recipes.workshop import Workshop

ANSWER_BYTES = 8 << 20
SECONDS = 600


class Written(NamedTuple):
    """What came back; `ended` is False when it was cut at the longest length."""

    text: str
    ended: bool


class Writer(Protocol):
    """Answers requests, in order; the same seed gives the same answers from a local model."""

    def __call__(self, requests: Sequence[str], *, temperature: float, seed: int) -> list[Written]:
        """One answer a request."""
        ...


def writer_of(model: str, max_tokens: int) -> Writer:
    """A writer by the user's word: an http address, else a model folder, `pocket` or a hub id.

    Raises:
        RecipeError: the address is not of this machine (E-EVOLVE-ADDRESS).
        KeeptuneError: the model cannot be loaded.
    """
    return Endpoint(model, max_tokens) if model.startswith(("http://", "https://")) else Local(model, max_tokens)


class Local:
    """A model of this machine, through its own chat template."""

    def __init__(self, model: str, max_tokens: int) -> None:
        self.loaded = Workshop().shared(Model(name=model).checkpoint)
        self.max_tokens = max_tokens

    def __call__(self, requests: Sequence[str], *, temperature: float, seed: int) -> list[Written]:
        """One answer a request."""
        from keeptune.data.encode import Encoder
        from keeptune.engine.generation import answer_limits, generate
        from keeptune.recipes.material import context_length

        encoder = Encoder(self.loaded.tokenizer)
        prompts = [encoder.prompt([Message("user", request)]) for request in requests]
        room = max(1, context_length(self.loaded) - self.max_tokens)
        prompts = [prompt[-room:] for prompt in prompts]
        limits = answer_limits(self.loaded.model, prompts, self.max_tokens)
        made = generate(
            self.loaded.model, self.loaded.tokenizer, prompts, max_new_tokens=self.max_tokens,
            stop_ids=encoder.stop_ids(), temperature=temperature, seed=seed,
        )  # fmt: skip
        decode = self.loaded.tokenizer.decode
        return [
            Written(str(decode(tokens, skip_special_tokens=True)).strip(), len(tokens) < limit)
            for tokens, limit in zip(made, limits, strict=True)
        ]


class Endpoint:
    """`POST ADDRESS/chat/completions`, one request after the other; proxies and other machines are never asked."""

    def __init__(self, address: str, max_tokens: int) -> None:
        host = urlsplit(address).hostname or ""
        if host != "localhost" and not _loopback(host):
            raise RecipeError(
                f"'{host}' is not this machine.", code="E-EVOLVE-ADDRESS", where={"key": "--model"},
                why="Nothing is sent over the network.", fix="Use http://127.0.0.1:PORT/v1.",
            )  # fmt: skip
        self.address, self.max_tokens = address.rstrip("/"), max_tokens
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        listed = self._call("/models", None).get("data") or [{}]
        self.model = str(listed[0].get("id", "default"))

    def __call__(self, requests: Sequence[str], *, temperature: float, seed: int) -> list[Written]:
        """One answer a request."""
        return [self._ask(request, temperature, seed + number) for number, request in enumerate(requests)]

    def _ask(self, request: str, temperature: float, seed: int) -> Written:
        turns = [{"role": "user", "content": request}]
        told = {"temperature": temperature, "seed": seed, "max_tokens": self.max_tokens}
        found = self._call("/chat/completions", {"model": self.model, "messages": turns, **told})
        try:
            choice = found["choices"][0]
            return Written(str(choice["message"]["content"] or "").strip(), choice.get("finish_reason") != "length")
        except (KeyError, IndexError, TypeError) as error:
            raise self._fault("its answer has another form") from error

    def _call(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with self._open(request, timeout=SECONDS) as answer:
                found = json.loads(answer.read(ANSWER_BYTES))
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise self._fault(str(error)[:120]) from error
        return found if isinstance(found, dict) else {}

    def _fault(self, why: str) -> MachineError:
        return MachineError(
            f"the server at {self.address} does not answer as an OpenAI-compatible one: {why}.",
            code="E-EVOLVE-SERVER", fix="Start it, and name the address that ends in /v1.",
        )  # fmt: skip


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
