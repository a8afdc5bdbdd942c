"""`keeptune merge`: a stock model folder with the adapters folded into the weights, compared before it is kept.

The adapters are folded in float32, and the logits must be those of the model that carries them. Then the weights are
rounded to the dtype that is written; what that alone changes is measured and said, for no file of that dtype is closer.
The folder is read again from the disk, and its logits must be those of the rounded weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import PlanError
from keeptune.core.files import read_json, write_json
from keeptune.core.typed import typed
from keeptune.recipes.proof import run_of
from keeptune.recipes.publishing import stacked, within, written
from keeptune.recipes.same_outputs import TOLERANCE, Inputs, agreement, difference, outputs_of, probing_inputs
from keeptune.recipes.workshop import Workshop

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from keeptune.models.load import Loaded

RECORD = "merged.json"


def merge_checkpoint(
    model: str, adapters: Sequence[str], output: Path, *, dtype: str | None = None, force: bool = False
) -> dict[str, Any]:
    """Writes a run, or a model with adapters, as one stock model folder.

    Args:
        model: a finished run, a model folder, a hub id or `pocket`.
        adapters: adapter folders, in the order in which they stand on it.
        output: the new folder.
        dtype: of the written weights; unset: that of the run, or of the model's own files.
        force: take an adapter of another base.

    Returns:
        What was compared, and `text`.

    Raises:
        PlanError: a method has no form as weights (E-ADAPTER-MERGE), an adapter answers its task alone
            (E-MERGE-ROUTED), or the outputs differ (E-MERGE-DIFFERENT).
        KeeptuneError: a model or a folder cannot be used.
    """
    from keeptune.models.load import load
    from keeptune.models.precision import DTYPES, find_dtype

    checkpoint = stacked(model, adapters)
    _check_routes(checkpoint)
    run = run_of(checkpoint)

    def fill(folder: Path) -> dict[str, Any]:
        loaded = Workshop(trusted=run, force=force).open(replace(checkpoint, dtype="float32"))
        wide = dtype or (checkpoint.dtype if run else _dtype_of(loaded.path))
        kept = find_dtype(wide, loaded.model.device)
        name = next(key for key, value in DTYPES.items() if value == kept)
        inputs = probing_inputs(loaded)
        before, folded = _fold(loaded, checkpoint, inputs)
        rounded = _save(loaded, kept, inputs, folder)
        del loaded
        again = outputs_of(load(folder, dtype="float32").model, inputs)
        record = {
            "base": checkpoint.base,
            "revision": checkpoint.revision,
            "adapters": [{"name": ref.name, "path": str(ref.path)} for ref in checkpoint.adapters],
            "dtype": name,
            "folded": folded,
            "written": within(difference(rounded, again), "the logits of the written model", "E-MERGE-DIFFERENT"),
            "rounding": difference(before, again),
            "top1_agreement": agreement(before, again),
            "tolerance": TOLERANCE,
        }
        write_json(folder / RECORD, record)
        return record

    record = written(output, fill)
    return {**record, "output": str(output), "text": _text(record, output)}


def _check_routes(checkpoint: Checkpoint) -> None:
    for ref in checkpoint.adapters:
        if ref.scope != "always":
            alone = typed("keeptune", "merge", checkpoint.base, ref.path)
            raise PlanError(
                f"'{ref.name}' answers its own task alone; as weights it would answer everybody.",
                code="E-MERGE-ROUTED",
                where={"file": ref.path},
                why="The certificate of this run does not speak for that.",
                fix=f"`keeptune export` it, or merge it on purpose: {alone}",
            )


def _fold(loaded: Loaded, checkpoint: Checkpoint, inputs: Inputs) -> tuple[list[Tensor], float]:
    """What the adapted model says, and by how much the folded one differs."""
    from keeptune.engine.rows import active
    from keeptune.methods import merge

    model, names = loaded.model, [ref.name for ref in checkpoint.adapters]
    with active(model, names):
        before = outputs_of(model, inputs)
    for name in names:
        merge(model, name)
    folded = difference(before, outputs_of(model, inputs))
    return before, within(folded, "the logits of the folded weights", "E-MERGE-DIFFERENT")


def _save(loaded: Loaded, dtype: torch.dtype, inputs: Inputs, folder: Path) -> list[Tensor]:
    """Rounds the weights and writes them; what the model then says, computed in float32."""
    from keeptune.models.writing import save_model

    model = loaded.model
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)  # no buffer: rotary frequencies are not stored, and stay exact
    save_model(loaded, folder)
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    return outputs_of(model, inputs)


def _dtype_of(folder: Path) -> str:
    """What a model folder says of its own weights."""
    config = read_json(folder / "config.json")
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _text(record: dict[str, Any], output: Path) -> str:
    names = ", ".join(ref["path"] for ref in record["adapters"]) or "none: the weights are written as they are"
    lines = [
        f"folded      {names}",
        f"compared    logits differ by {record['folded']:.1g} of the largest after folding, by {record['written']:.1g} "
        f"after reading the folder again (allowed: {record['tolerance']:g})",
        f"rounding    weights in {record['dtype']} move the logits by {record['rounding']:.1g}; "
        f"{100 * record['top1_agreement']:.1f}% of positions keep their most probable token",
        f"written     {output}: a stock model folder, which transformers reads without keeptune",
    ]
    return "\n".join(lines)
