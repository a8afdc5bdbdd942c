"""Deep Incubation: modules of a deep model trained apart, each inside a shallow one, then put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from keeptune.core.checkpoint import AdapterRef, Checkpoint
from keeptune.core.commit import verify, write_commit
from keeptune.core.counting import counted
from keeptune.core.digest import digest_of
from keeptune.core.errors import PlanError
from keeptune.core.files import delete, read_json, write_json
from keeptune.losses import Loss
from keeptune.methods.freeze import Freeze
from keeptune.methods.full import Full
from keeptune.methods.head import Head
from keeptune.stages import Stage, StageWork
from keeptune.stages._settings import Mixture
from keeptune.stages.optimizers import Optimizer
from keeptune.stages.train import Train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from keeptune.models.load import Loaded

MANIFEST = "manifest.json"
BEGUN = "-begun"


class DeepIncubation(Stage):
    """A meta model of one block a module, K hybrids that train one module each, and the assembled model.

    Module i of L / K blocks stands in the place of block i of the meta model, and alone learns; everything around it is
    frozen, so the K modules are independent of each other. The first module owns the embeddings, the last one the final
    norm and the head; where both are one matrix, the meta model's is kept. arXiv:2212.04129, where all starts from
    random weights and a joint stage follows (`train` with the method `full`). For language models nothing is published:
    this is an experiment.

    Where labels are learned, `head` reads the states: the meta model trains it with its body, the last module too, and
    the assembled model keeps it as an adapter of the stage's id, which a joint stage goes on with (`thaw`).
    """

    modules: int = Field(2, ge=2, le=64, description="K; divides the number of blocks")
    meta: Literal["dropped", "scratch"] = Field(
        "dropped", description="dropped: every (L/K)-th block of the pretrained model; scratch: new weights"
    )
    start: Literal["pretrained", "random"] = Field("pretrained", description="where the modules begin")
    data: str | dict[str, float] | Mixture = Field("task", description="as of a train stage")
    losses: list[Loss] = Field(default_factory=lambda: [Loss.find("next_token")()], description="as of a train stage")
    head: Head | None = Field(None, description="what reads labels off the states, for the loss `label`")
    optimizer: Optimizer = Field(default_factory=lambda: Optimizer.find("adamw")(lr=3e-4), description="of every part")
    meta_steps: int = Field(100, ge=1, le=10_000_000, description="of the meta model")
    module_steps: int = Field(100, ge=1, le=10_000_000, description="of each module")
    batch_tokens: int = Field(4096, ge=1, le=10_000_000, description="of a step")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(loss.reads_labels for loss in self.losses) != (self.head is not None):
            raise ValueError("'head' and the loss 'label' come together: set both, or neither")
        if self.head is not None and self.head.layer != "last":
            raise ValueError("'head' reads the last states here: the meta model has fewer layers than the whole one")
        return self

    def sources(self) -> list[str]:
        """Those that every part learns from."""
        return self._training("meta", Full(), 1).sources()

    def run(self, checkpoint: Checkpoint, work: StageWork) -> Checkpoint:
        """Trains what is not trained yet; every part commits for itself and is listed in `manifest.json`.

        Raises:
            PlanError: the depth is no multiple of `modules`, or the model is none that can be cut (E-INCUBATE-DEPTH,
                E-STACK-SHAPE).
            KeeptuneError: as of a train stage.
        """
        from keeptune.models.stacking import Block, stacked

        if checkpoint.adapters:
            raise PlanError(
                "modules are cut out of plain weights, and this checkpoint has adapters on it.",
                code="E-INCUBATE-ADAPTERS",
                where={"key": f"stages[{work.index}]"},
                fix="Put this stage first, or give it the folder that `keeptune merge` wrote as `model.name`.",
            )
        source = work.open(checkpoint)
        groups = self._groups(source.model, work.index)
        dropped = [Block(source.model, group[-1]) if self.meta == "dropped" else None for group in groups]
        ends = source.model if self.meta == "dropped" else None
        make = partial(stacked, source.model, dropped, first=ends, last=ends, seed=work.seed)
        whole = Full() if self.head is None else [Full(), self.head]
        meta = self._part(f"{self.label}-meta", whole, self.meta_steps, make, source, checkpoint, work)
        heads = tuple(replace(ref, name=self.label) for ref in meta.adapters)
        shallow = work.open(replace(meta, adapters=())).model
        trained = []
        for place, group in enumerate(groups):
            inner = [Block(source.model, index) if self.start == "pretrained" else None for index in group]
            blocks = [Block(shallow, index) for index in range(len(groups))]
            hybrid = [*blocks[:place], *inner, *blocks[place + 1 :]]
            make = partial(stacked, source.model, hybrid, first=shallow, last=shallow, seed=work.seed + 1 + place)
            method, name = self._method(place, len(group), shallow), f"{self.label}-{place + 1}"
            start, last = replace(checkpoint, adapters=heads), place + 1 == len(groups)
            trained.append(self._part(name, method, self.module_steps, make, source, start, work, thaw=last))
        return self._assembled(trained, groups, source, checkpoint, work)

    def _groups(self, model: PreTrainedModel, index: int) -> list[list[int]]:
        depth = model.config.num_hidden_layers
        if depth % self.modules:
            divisors = ", ".join(str(n) for n in range(2, depth + 1) if depth % n == 0)
            raise PlanError(
                f"{counted(depth, 'block')} cannot be cut into {self.modules} modules of the same depth.",
                code="E-INCUBATE-DEPTH",
                where={"key": f"stages[{index}].modules"},
                fix=f"Take one of {divisors}.",
            )
        size = depth // self.modules
        return [list(range(start, start + size)) for start in range(0, depth, size)]

    def _method(self, place: int, size: int, model: PreTrainedModel) -> Freeze:
        from keeptune.models.stacking import tied

        return Freeze(blocks=(place, place + size - 1), embeddings=place == 0 and not tied(model))

    def _training(self, label: str, method: Any, steps: int, thaw: Sequence[str] = ()) -> Train:
        return Train(
            id=label, method=method, data=self.data, losses=self.losses, optimizer=self.optimizer, steps=steps,
            batch_tokens=self.batch_tokens, thaw=list(thaw),
        )  # fmt: skip

    def _part(
        self, name: str, method: Any, steps: int, make: Any, source: Loaded, checkpoint: Checkpoint, work: StageWork,
        *, thaw: bool = False,
    ) -> Checkpoint:  # fmt: skip
        """A trained part; one that the manifest names, made from the same, is taken as it is.

        Args:
            name: its id.
            method: what of it is trained.
            steps: of the training.
            make: the model that is trained.
            source: whose tokenizer it has.
            checkpoint: whose adapters are on it.
            work: of the whole stage.
            thaw: those adapters learn too.
        """
        from keeptune.stages._plan import rows_digest

        stage = self._training(name, method, steps, [ref.name for ref in checkpoint.adapters] if thaw else [])
        file = work.folder / MANIFEST
        listed = read_json(file) if file.exists() else {}
        rows = {name: rows_digest(work.data[name].rows) for name in stage.sources()}
        key = digest_of([self.to_dict(), stage.to_dict(), source.fingerprint, rows, work.seed])
        if name in listed and listed[name]["key"] == key:
            work.progress.say(f"{name}: done before, nothing to do")
            return Checkpoint.from_dict(listed[name]["checkpoint"], relative_to=work.folder)
        begun = _written(work.folder, name + BEGUN, make(), source)
        own = replace(work, folder=work.folder / name, dev=None, dev_rows=None, guard=None, layers_twice=0)
        result = stage.run(Checkpoint(str(begun), dtype=checkpoint.dtype, adapters=checkpoint.adapters), own)
        entry = {"key": key, "checkpoint": result.to_dict(relative_to=work.folder), "steps": steps}
        write_json(file, {**(read_json(file) if file.exists() else {}), name: entry})
        return result

    def _assembled(
        self, parts: Sequence[Checkpoint], groups: Sequence[Sequence[int]], source: Loaded, checkpoint: Checkpoint,
        work: StageWork,
    ) -> Checkpoint:  # fmt: skip
        from keeptune.models.stacking import Block, stacked

        models = [work.open(replace(part, adapters=())).model for part in parts]
        blocks = [
            Block(model, place + offset)
            for place, (model, group) in enumerate(zip(models, groups, strict=True))
            for offset in range(len(group))
        ]
        whole = stacked(source.model, blocks, first=models[0], last=models[-1], seed=work.seed)
        heads = parts[-1].adapters
        path = _written(work.folder, "assembled", whole, source, heads)
        for begun in work.folder.glob(f"*{BEGUN}"):
            delete(begun)
        work.run.event("assembled", stage=self.label, modules=len(parts), blocks=len(blocks))
        kept = tuple(replace(ref, path=path / ref.name) for ref in heads)
        return Checkpoint(str(path), dtype=checkpoint.dtype, adapters=kept)


def _written(folder: Path, name: str, model: PreTrainedModel, source: Loaded, heads: Sequence[AdapterRef] = ()) -> Path:
    """A model's folder, with each head in a folder of its name inside."""
    from keeptune.methods import load_adapter, save_adapter
    from keeptune.models.writing import save_model

    def fill(place: Path) -> None:
        save_model(replace(source, model=model), place)
        for ref in heads:
            load_adapter(model, ref.path, ref.name, force=True)  # it was trained on a part of this model
            (place / ref.name).mkdir()
            save_adapter(model, ref.name, place / ref.name)

    path = write_commit(folder, name, fill, info={})
    verify(path)
    return path
