"""Everything a run learns from and is measured on: read, generated, split, encoded, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.cache import cache_folder
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.digest import digest_of
from keeptune.core.errors import DataError
from keeptune.core.example import Example
from keeptune.core.shape import ModelShape
from keeptune.data.encode import EncodedSet
from keeptune.data.formats.generated import Generated
from keeptune.models.families import family_of
from keeptune.recipes.encoding import encoded_once
from keeptune.recipes.positions_left import left_for_text, positions_taken
from keeptune.recipes.self_text import self_text
from keeptune.recipes.sources import Source, data_digest, read_sources
from keeptune.stages.train import Train

if TYPE_CHECKING:
    from keeptune.models.load import Loaded
    from keeptune.recipes.recipe import Recipe
    from keeptune.recipes.workshop import Workshop
    from keeptune.stages._progress import Progress


LONGEST_IMAGE = 1 << 30


@dataclass(frozen=True)
class Material:
    """The data of a run.

    Attributes:
        sources: as read.
        train: encoded rows of every source that a stage trains on.
        dev: encoded dev rows of the target's source.
        target: name of the target's source.
    """

    sources: Mapping[str, Source]
    train: Mapping[str, EncodedSet]
    dev: EncodedSet | None = None
    target: str | None = None
    generated: frozenset[str] = field(default_factory=frozenset)

    def digest(self) -> str:
        """Of everything that was read or made."""
        return data_digest(dict(self.sources))

    def examples(self) -> dict[str, list[Example]]:
        """Rows by `source/split`, as evaluations ask for them."""
        parts = ("train", "dev", "test", "ood")
        named = {
            f"{name}/{part}": list(getattr(source, part)) for name, source in self.sources.items() for part in parts
        }
        return {name: rows for name, rows in named.items() if rows}

    def counts(self) -> dict[str, Any]:
        """For `data.json`: read = kept + dropped + cut for every source, and what was left out."""
        shown: dict[str, Any] = {}
        for name, source in self.sources.items():
            encoded = self.train.get(name)
            shown[name] = {**source.counts, **source.split_counts()}
            if encoded is not None:
                shown[name]["encoding"] = dict(encoded.counts)
                shown[name]["tokens"] = sum(len(row.tokens) for row in encoded.rows)
                shown[name]["learned_tokens"] = sum(sum(row.learned) for row in encoded.rows)
        return {"sources": shown, "digest": self.digest()}


def gather(recipe: Recipe, folder: Path | None, workshop: Workshop, base: Checkpoint, progress: Progress) -> Material:
    """Reads and encodes what the recipe names.

    Raises:
        DataError: a file or row cannot be used, or nothing is left to learn from.
    """
    sources = read_sources(recipe, folder)
    loaded = workshop.shared(base)
    generated = {name: settings for name, settings in recipe.data.items() if isinstance(settings, Generated)}
    if generated and loaded.anatomy.kind in ("encoder", "image"):
        raise DataError(
            f"a {loaded.anatomy.family} model writes nothing that could be replayed as '{next(iter(generated))}'.",
            code="E-DATA-GENERATED",
            where={"key": f"data.{next(iter(generated))}"},
            fix="Take the generated source out of the recipe.",
        )
    for name, settings in generated.items():
        rows = self_text(loaded, settings, name, seed=recipe.seed, cache=cache_folder(), say=progress.say)
        digest = digest_of([[row.text, [turn.to_dict() for turn in row.messages]] for row in rows])
        sources[name] = Source(name, train=rows, digest=digest, counts={"read": len(rows), "kept": len(rows)})
    target = getattr(recipe.proof.target, "data", None) if recipe.proof and recipe.proof.target else None
    dev_rows = sources[target].dev if target else ()
    train = {name: encoded(recipe, loaded, sources[name].train, name) for name in recipe.trained}
    if loaded.anatomy.kind in ("decoder", "encoder_decoder"):  # an encoder's tokenizer puts separators between texts
        _require_texts(recipe, train)
    return Material(
        sources=sources,
        train=train,
        dev=encoded(recipe, loaded, dev_rows, str(target)) if dev_rows else None,
        target=target,
        generated=frozenset(generated),
    )


def encoded(recipe: Recipe, loaded: Loaded, rows: tuple[Example, ...], source: str) -> EncodedSet:
    """Rows of a source as the base takes them, by the recipe's template and policy."""
    taken = positions_taken(recipe, loaded.model.config.to_dict(), loaded.tokenizer)
    return encoded_once(
        rows,
        loaded.tokenizer,
        cache_folder(),
        too_long=recipe.too_long,
        context=left_for_text(context_length(loaded), taken.get(source, 0)),
        template=recipe.template,
        kind=loaded.anatomy.kind,
        pairs=source in recipe.paired,
    )


def _require_texts(recipe: Recipe, train: Mapping[str, EncodedSet]) -> None:
    """Refuses rows in which a template's texts cannot be told apart."""
    for index, stage in enumerate(recipe.stages):
        for method in stage.methods if isinstance(stage, Train) else ():
            for name in stage.sources() if len(method.texts) > 1 else ():
                rows = train[name].rows if name in train else ()
                whole = sum(len(row.starts.texts) == len(method.texts) - 1 for row in rows)
                if whole < len(rows):
                    raise DataError(
                        f"in {len(rows) - whole} of {len(rows)} rows of '{name}' the {len(method.texts)} texts of the "
                        "template cannot be told apart.",
                        code="E-ROWS-TEMPLATE",
                        where={"key": f"stages[{index}].method"},
                        why="The chat template writes them in another form, or they were cut.",
                        fix="Use `template: plain` and `too_long: drop`, or a template with one {text}.",
                    )


def fitted(recipe: Recipe, material: Material) -> Recipe:
    """The recipe with the settings of its methods that only the data can decide, such as the labels of a head."""
    stages = [stage.fitted(material.train) if isinstance(stage, Train) else stage for stage in recipe.stages]
    return recipe.model_copy(update={"stages": stages})


def context_length(loaded: Loaded) -> int:
    """The longest row that a loaded model can take; see `longest_row`."""
    return longest_row(loaded.model.config.to_dict())


def longest_row(config: Mapping[str, Any]) -> int:
    """The longest row that a model of that `config.json` can take, in tokens; images have one size, which it checks."""
    family = family_of(config)
    if family.kind == "image":
        return LONGEST_IMAGE
    taken = config["pad_token_id"] + 1 if family.positions == "offset" else 0
    own = config.get("max_position_embeddings") or ModelShape.from_config(config).positions
    return int(own or 2048) - taken
