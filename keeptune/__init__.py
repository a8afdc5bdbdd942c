"""keeptune adapts a pretrained language model to a task and proves what the model kept.

>>> import keeptune as kt
>>> model, tokenizer = kt.load("path-or-id")  # doctest: +SKIP
>>> kt.methods.LoRA(rank=8).attach(model, name="ana")  # doctest: +SKIP
>>> with kt.rows(model, ["ana", None]):  # one batch, two users; None is the base  # doctest: +SKIP
...     logits = model(**batch).logits
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keeptune import data, evaluations, losses, methods
    from keeptune.engine.book import activate, detach
    from keeptune.engine.request_parts import divided
    from keeptune.engine.rows import active, off, rows
    from keeptune.methods import attach, load_adapter, merge, save_adapter
    from keeptune.models.load import load_pair as load
    from keeptune.recipes.check import check
    from keeptune.recipes.plan import plan
    from keeptune.recipes.proof import prove
    from keeptune.recipes.run import run

__version__ = "0.1.0"

# Public name -> where it lives; nothing heavy is imported before a name is used.
_PLACES = {
    "load": "keeptune.models.load:load_pair",
    "attach": "keeptune.methods:attach",
    "merge": "keeptune.methods:merge",
    "detach": "keeptune.engine.book:detach",
    "rows": "keeptune.engine.rows:rows",
    "divided": "keeptune.engine.request_parts:divided",
    "active": "keeptune.engine.rows:active",
    "activate": "keeptune.engine.book:activate",
    "off": "keeptune.engine.rows:off",
    "save_adapter": "keeptune.methods:save_adapter",
    "load_adapter": "keeptune.methods:load_adapter",
    "run": "keeptune.recipes.run:run",
    "check": "keeptune.recipes.check:check",
    "plan": "keeptune.recipes.plan:plan",
    "prove": "keeptune.recipes.proof:prove",
}
_PACKAGES = ("methods", "losses", "evaluations", "data")

__all__ = [
    "activate", "active", "attach", "check", "data", "detach", "divided", "evaluations", "load", "load_adapter",
    "losses", "merge", "methods", "off", "plan", "prove", "rows", "run", "save_adapter",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"keeptune.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'keeptune' has no attribute '{name}'")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES, *_PACKAGES])
