"""An OpenAI-compatible server as a subject: it writes answers, and gives likelihoods where it echoes them.

`http://127.0.0.1:8000/v1#name` is the model `name` of the server at that address. Nothing but that address is asked,
and only because the user typed it; a token comes from the environment variable KEEPTUNE_ENDPOINT_TOKEN.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import MachineError, RecipeError
from keeptune.core.example import Message
from keeptune.evaluations import Subject

SECONDS, MOST_BYTES = 300, 64 << 20
UNREAD = "the server's answer is none that the API has."
TOKEN = "KEEPTUNE_ENDPOINT_TOKEN"


def is_endpoint(base: str) -> bool:
    """Whether a checkpoint's base is an address."""
    return base.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Endpoint(Subject):
    """A served model. Its weights are not ours, so no score of it is kept for another run.

    Attributes:
        address: up to and with the version, such as `http://127.0.0.1:8000/v1`.
        name: of the model on that server.
    """

    address: str = ""
    name: str = ""

    @classmethod
    def at(cls, checkpoint: Checkpoint) -> Endpoint:
        """The subject for an address with a model's name behind `#`.

        Raises:
            RecipeError: the name is missing, or adapters are to be put on it (E-ENDPOINT-NAME).
        """
        address, _, name = checkpoint.base.partition("#")
        if not name or checkpoint.adapters:
            raise RecipeError(
                f"'{checkpoint.base}' names no model of that server.", code="E-ENDPOINT-NAME",
                fix="Write the address, # and the model's name: http://127.0.0.1:8000/v1#my-model",
            )  # fmt: skip
        return cls(None, None, (), "", address.rstrip("/"), name)

    @property
    def kind(self) -> str:
        """It writes."""
        return "decoder"

    def on_task(self, source: str = "task") -> AbstractContextManager[None]:
        """It answers as it is served."""
        return nullcontext()

    def off_task(self) -> AbstractContextManager[None]:
        """The same: what is active on a server is the server's affair."""
        return nullcontext()

    def write(self, turns: Sequence[Message], longest: int) -> str:
        """The greedy answer to a conversation."""
        asked = {
            "model": self.name, "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "max_tokens": longest, "temperature": 0,
        }  # fmt: skip
        found = self._ask("/chat/completions", asked)
        try:
            return str(found["choices"][0]["message"]["content"] or "").strip()
        except (KeyError, IndexError, TypeError):
            raise self._unread("/chat/completions") from None

    @cached_property
    def gives_likelihoods(self) -> bool:
        """Whether it echoes a prompt with the log-probabilities of its tokens."""
        try:
            return self.log_likelihood("One two ", "three") is not None
        except MachineError:
            return False

    def log_likelihood(self, before: str, text: str) -> float | None:
        """Log p of the tokens of `before + text` that end behind `before`, in nats; None where none is told."""
        asked = {
            "model": self.name, "prompt": before + text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1,
        }  # fmt: skip
        found = self._ask("/completions", asked)
        try:
            told = found["choices"][0]["logprobs"]
            tokens, values, starts = told["tokens"], told["token_logprobs"], told["text_offset"]
        except (KeyError, IndexError, TypeError):
            return None
        whole = len(before + text)
        own = [
            value
            for token, value, start in zip(tokens, values, starts, strict=True)
            if start < whole and start + len(token) > len(before) and value is not None
        ]
        return math.fsum(own) if own else None

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(TOKEN):
            headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), headers)
        # Raised outside the handlers: an error that holds a traceback holds its socket open.
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                return json.loads(response.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(400).decode("utf-8", "replace")
            wrong = f"the server answered {error.code}: {said}"
        except ValueError:
            wrong = UNREAD
        except (OSError, http.client.HTTPException) as error:
            wrong = f"the server cannot be reached: {error}"
        raise self._refused(path, wrong)

    def _unread(self, path: str) -> MachineError:
        return self._refused(path, UNREAD)

    def _refused(self, path: str, what: str) -> MachineError:
        return MachineError(
            what, code="E-ENDPOINT", where={"file": self.address + path},
            fix=f"Look whether the server runs, serves '{self.name}', and wants a token ({TOKEN}).",
        )  # fmt: skip
