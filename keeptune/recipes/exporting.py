"""`keeptune export`: an adapter as the folder that PEFT reads, opened by PEFT and compared before it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.errors import PlanError
from keeptune.recipes.proof import run_of
from keeptune.recipes.publishing import stacked, within, written
from keeptune.recipes.same_outputs import TOLERANCE, difference, outputs_of, probing_inputs
from keeptune.recipes.workshop import Workshop

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.core.checkpoint import AdapterRef, Checkpoint
    from keeptune.models.load import Loaded
    from keeptune.recipes.same_outputs import Inputs


IN_4_BITS = ", in NF4 while it trained: on the weights before that, the adapter answers somewhat otherwise"


def export_adapter(model: str, adapters: Sequence[str], output: Path, *, force: bool = False) -> dict[str, Any]:
    """Writes the adapter of a run, or of an adapter folder, as PEFT's.

    Args:
        model: a finished run, or the model that the adapter stands on.
        adapters: the adapter folder, where `model` is no run.
        output: the new folder.
        force: take an adapter of another base.

    Returns:
        What was compared, and `text`.

    Raises:
        PlanError: there is not exactly one adapter (E-EXPORT-COUNT), PEFT has no such kind (E-EXPORT-KIND), or PEFT's
            logits differ (E-EXPORT-DIFFERENT).
        KeeptuneError: a model or a folder cannot be used.
    """
    checkpoint = stacked(model, adapters)
    ref = _only(checkpoint)
    run = run_of(checkpoint)

    def fill(folder: Path) -> dict[str, Any]:
        from keeptune.engine.rows import active
        from keeptune.methods import save_adapter
        from keeptune.models.adapter_files import is_pefts

        loaded = Workshop(trusted=run, force=force).open(replace(checkpoint, dtype="float32"))
        save_adapter(loaded.model, ref.name, folder)
        if not is_pefts(folder):
            raise _foreign(loaded, ref)
        inputs = probing_inputs(loaded)
        with active(loaded.model, ref.name):
            before = outputs_of(loaded.model, inputs)
        found = within(_by_peft(checkpoint, folder, inputs, before), "PEFT's logits", "E-EXPORT-DIFFERENT")
        return {
            "base": checkpoint.base,
            "quantize": checkpoint.quantize,
            "adapter": str(ref.path),
            "difference": found,
        }

    found = written(output, fill)
    return {**found, "tolerance": TOLERANCE, "output": str(output), "text": _text(found, output)}


def _only(checkpoint: Checkpoint) -> AdapterRef:
    if len(checkpoint.adapters) != 1:
        names = ", ".join(ref.name for ref in checkpoint.adapters)
        raise PlanError(
            f"a PEFT folder holds one adapter, and here are {len(checkpoint.adapters)}"
            + (f" that answer together: {names}." if names else "."),
            code="E-EXPORT-COUNT",
            fix="`keeptune merge` writes all of it as one model."
            if names
            else "Give a run with an adapter, or a model and an adapter folder. `keeptune merge` writes whole models.",
        )
    return checkpoint.adapters[0]


def _foreign(loaded: Loaded, ref: AdapterRef) -> PlanError:
    """Why the folder would not be PEFT's, and what to do with the adapter instead."""
    from keeptune.engine.book import require_book

    methods = require_book(loaded.model, ref.name).adapter(ref.name).methods
    merges = all(method.merges for method in methods)
    whole = "`keeptune merge` writes it into the weights of a stock model; or copy" if merges else "Copy"
    return PlanError(
        f"PEFT has no form for {' with '.join(method.name for method in methods)} with these settings.",
        code="E-EXPORT-KIND",
        where={"file": ref.path},
        why="A folder that only looks like PEFT's would be read as another function.",
        fix=f"{whole} the adapter's own folder, which keeptune.load_adapter reads.",
    )


def _by_peft(checkpoint: Checkpoint, folder: Path, inputs: Inputs, before: list[Tensor]) -> float:
    """How far the logits are from those of PEFT's own model; virtual tokens that it gives back are left out.

    A base in 4 bits is compared as a stock model with the same weights written out.
    """
    from keeptune.models.load import widen_loaded
    from keeptune.models.peft_library import opened

    base = Workshop().open(replace(checkpoint, dtype="float32", adapters=())).model
    widen_loaded(base)
    theirs = opened(base, folder)
    after = outputs_of(base, inputs, theirs)
    return difference(before, [said[-len(ours) :] for ours, said in zip(before, after, strict=True)])


def _text(found: dict[str, Any], output: Path) -> str:
    return "\n".join(
        (
            f"compared    logits by PEFT differ from keeptune's by {found['difference']:.1g} of the largest "
            f"(allowed: {TOLERANCE:g})",
            f"base        {found['base']}" + (IN_4_BITS if found["quantize"] else ""),
            f"written     {output}: peft.PeftModel.from_pretrained(base, folder) reads it",
        )
    )
