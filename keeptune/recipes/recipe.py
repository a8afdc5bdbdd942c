"""Recipe: seed, model, data, ordered stages, and the proof that closes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import RecipeError, did_you_mean
from keeptune.core.spec import Spec, validate
from keeptune.data.formats import Format
from keeptune.evaluations import Evaluation
from keeptune.recipes.overrides import with_overrides
from keeptune.recipes.yaml_file import read_yaml
from keeptune.stages import Stage
from keeptune.stages._guard import Guard
from keeptune.stages.prove import Margins
from keeptune.stages.train import Train

FOLDER = Path(__file__).parent


class Model(Spec):
    """The base: what is adapted."""

    name: str = Field("pocket", min_length=1, description="pocket, a model folder, or a hub id")
    revision: str | None = Field(None, description="of a hub id")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="of the frozen weights; auto: bfloat16 where the device has units for it, else float32"
    )
    quantize: Literal["nf4"] | None = Field(None, description="nf4: the linear maps of the blocks in 4 bits")

    @property
    def checkpoint(self) -> Checkpoint:
        """The base as stages take it; `auto` is decided here, so that everything that is stored names a dtype."""
        dtype: str = self.dtype
        if dtype == "auto":
            from keeptune.models.device import find_device
            from keeptune.models.precision import fastest_dtype

            dtype = str(fastest_dtype(find_device())).removeprefix("torch.")
        return Checkpoint(self.name, self.revision, dtype, quantize=self.quantize)


class Split(Spec):
    """Shares of the target's source that are never trained on; chosen by a stable hash of each row."""

    dev: float = Field(0.1, ge=0, le=0.5, description="for early stopping and choosing")
    test: float = Field(0.2, ge=0, le=0.5, description="for the proof, looked at once")


class Proof(Spec):
    """What is measured before and after, and the margins it is held against."""

    target: Evaluation | None = Field(None, description="the task: {data: NAME, metric: label_accuracy}")
    ood: str | None = Field(None, description="domain shift: a source whose rows the target's metric is also taken on")
    suite: str = Field("embedded", description="embedded, or a suite file")
    items: int = Field(1500, ge=50, le=100_000, description="questions per task of the embedded suite")
    margins: Margins = Field(Margins(), description="fixed before training")
    leak: str | None = Field(None, description="regular expression of the training format; else the label set")
    diagnose: bool = Field(False, description="tell form, recoverable loss and knowledge apart; takes minutes more")
    sequential: bool = Field(False, description="ask the adapted model in parts and stop when the verdict stands")
    lang: Literal["en", "zh"] = Field("en", description="language of the certificate page")
    seeds: int = Field(1, ge=1, le=10, description="runs with seed, seed+1, ...; three speak for the recipe")

    @model_validator(mode="after")
    def _one_seed_in_parts(self) -> Proof:
        if self.sequential and self.seeds > 1:
            raise ValueError("`sequential` stops each seed at items of its own; seeds are compared on the same items")
        return self

    @field_validator("target", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": "target", **value} if isinstance(value, dict) and "name" not in value else value


class Recipe(Spec):
    """Everything that `keeptune run` needs, and nothing that it does not."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="small letters, digits, - and _; it names the run folder"
    )
    seed: int = Field(7, ge=0, lt=2**31, description="every generator of the run derives from it")
    model: Model = Field(Model(), description="the base")
    data: dict[str, Format] = Field(default_factory=dict, description="sources by name")
    template: str | None = Field(None, description="plain, when the tokenizer has no chat template")
    too_long: Literal["drop", "cut", "split", "refuse"] = Field("drop", description="policy for over-long rows")
    leaks: Literal["refuse", "allow"] = Field("refuse", description="test rows that training asks, in `check`")
    split: Split = Field(Split(), description="what is held out of the target's source")
    stages: list[Stage] = Field(min_length=1, max_length=12, description="what is done, in order, each behind a dash")
    guard: Guard | None = Field(None, description="looks at what is lost while it trains; --budget ends it in time")
    proof: Proof | None = Field(Proof(), description="null: no proof")

    @model_validator(mode="after")
    def _names_exist(self) -> Recipe:
        problems = [_unknown(place, name, known) for place, name, known in self._sources_used() if name not in known]
        problems += [
            f"stages[{index}]: the source '{name}' is made here, and there is one of that name already."
            for index, stage in enumerate(self.stages)
            for name in stage.made_from()
            if name in self._known(index)
        ]
        shifted = self.proof.ood if self.proof else None
        if self.proof and shifted and shifted in (*self.trained, getattr(self.proof.target, "data", None)):
            problems.append(f"proof.ood names '{shifted}', which is the task or trained on: that is no shift.")
        ids = [stage.label for stage in self.stages]
        problems += [
            f"two stages are called '{name}'; give one an id." for name in {i for i in ids if ids.count(i) > 1}
        ]
        problems += [
            f"stages[{index}]: '{method.name}' needs the base's own weights, and `model.quantize` keeps them "
            "in 4 bits. Use a method that adds to the base, such as lora."
            for index, stage in enumerate(self.stages)
            if self.model.quantize and isinstance(stage, Train)
            for method in stage.methods
            if not method.fits_4bit
        ]
        problems += self._other_texts()
        if problems:
            raise ValueError(" ".join(problems))
        return self

    def _other_texts(self) -> list[str]:
        """Templates that name other columns than the rows have, or would serve rows of one text in the proof."""
        always = [
            f"stages[{index}]: the template reads rows of {len(method.texts)} texts, and with `scope: always` it would "
            "serve every row of the proof's suite. Set `scope: task`."
            for index, stage in enumerate(self.stages)
            if isinstance(stage, Train) and stage.scope == "always" and self.proof
            for method in stage.methods
            if len(method.texts) > 1
        ]
        return always + [
            f"stages[{index}]: the template names the texts {', '.join(method.texts)}, and the rows of '{source}' have "
            f"{', '.join(columns) or 'one text without a name'}. Name its columns in data.{source}.prompt, in the "
            "template's order."
            for index, stage in enumerate(self.stages)
            if isinstance(stage, Train)
            for method in stage.methods
            for source in stage.sources()
            if method.texts and (columns := getattr(self.data.get(source), "columns", ())) != method.texts
        ]

    def _sources_used(self) -> list[tuple[str, str, list[str]]]:
        """(place, source name, names that can be used there) of every reference to a source."""
        used = [
            (f"stages[{index}]", name, self._known(index))
            for index, stage in enumerate(self.stages)
            for name in stage.sources()
        ]
        target = getattr(self.proof.target, "data", None) if self.proof and self.proof.target else None
        shifted = self.proof.ood if self.proof else None
        measured = (("proof.target.data", target), ("proof.ood", shifted))
        return used + [(place, name, list(self.data)) for place, name in measured if name]

    def _known(self, index: int) -> list[str]:
        """Sources that a stage can name: those of the data, and those that earlier stages make."""
        return [*self.data, *(name for stage in self.stages[:index] for name in stage.made_from())]

    @property
    def trained(self) -> list[str]:
        """The sources of the data that some stage learns from or looks at."""
        named = dict.fromkeys(name for stage in self.stages for name in stage.sources())
        return [name for name in named if name in self.data]

    @property
    def paired(self) -> set[str]:
        """The sources of which some stage learns the better and the worse answer of each row."""
        return {name for stage in self.stages if isinstance(stage, Train) for name in stage.paired}


def load_recipe(recipe: str | Path, settings: list[str] | None = None) -> Recipe:
    """A recipe from a file, or by the name of one that comes with keeptune.

    Raises:
        RecipeError: every fault of the recipe at once, each with its place.
    """
    path = recipe_path(recipe)
    plain, lines = read_yaml(path)
    if not isinstance(plain, dict):
        raise RecipeError(
            "a recipe is a mapping of settings.",
            code="E-RECIPE-YAML",
            where={"file": path},
            fix="See: keeptune show sft",
        )
    made: Recipe = validate(Recipe, with_overrides(plain, settings or []), file=str(path), lines=lines)
    return made


def recipe_path(recipe: str | Path) -> Path:
    """The file of a recipe given by path or by name."""
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    named = FOLDER / f"{recipe}.yaml"
    if named.is_file():
        return named
    known = [file.stem for file in FOLDER.glob("*.yaml")]
    raise RecipeError(f"no recipe is called '{recipe}'.", code="E-RECIPE-FILE", fix=did_you_mean(str(recipe), known))


def _unknown(place: str, name: str, known: list[str]) -> str:
    return f"{place} names the source '{name}', which `data` does not have. {did_you_mean(name, known)}"
