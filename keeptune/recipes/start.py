"""`keeptune init`: a commented recipe for a data file, with what was guessed said aloud."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keeptune.core.counting import counted
from keeptune.core.disk import prepare_output
from keeptune.core.errors import DataError, KeeptuneError, RecipeError
from keeptune.core.example import Example
from keeptune.core.files import atomic_write
from keeptune.core.image import Image
from keeptune.core.typed import typed
from keeptune.data.bare_requests import BARE, asked_bare
from keeptune.data.formats import FileFormat
from keeptune.data.guess import guess_format, label_set
from keeptune.data.hub import PREFIX
from keeptune.data.read import read_examples
from keeptune.data.split import split, stated_parts
from keeptune.recipes.passes import Passes, minutes_of, passes_of, passes_over, tokenizer_of
from keeptune.report.words import seconds

# Above this share of bad rows the format or the file is wrong, not some rows.
MOST_BAD = 0.05
SEED, HELD_OUT = 7, {"dev": 0.05, "test": 0.2}
HEAD = """\
# {summary}
# keeptune check {file}   shows what would be learned; keeptune run {file}   does it and proves what was kept
name: {name}
seed: {seed}
model: {{name: {model}, dtype: auto}}        # auto: bfloat16 where the machine has units for it, else float32
data:
  task: {source}
"""
CHAT = """\
  replay: {{format: generated, rows: 400, chats: 0.8, max_tokens: 128}}   # the base's own text
too_long: {too_long:<33}# drop | cut | split | refuse
split: {{dev: 0.05, test: 0.2}}               # held out of the task: {held_out}
stages:
  - name: train
    method: {{name: lora, rank: 16}}          # keeptune list methods
    data: {{task: 0.5, replay: 0.5}}          # shares of the tokens; half is what kept pocket whole
    losses: [{{name: next_token, on: task}}, {{name: kl_to_base, on: replay, weight: 60}}]   # less weight learns more
    optimizer: {{name: adamw, lr: {rate}, schedule: cosine, warmup: 0.03}}
    epochs: {epochs}
    batch_tokens: 4096
proof: {{target: {{data: task, metric: {metric}}}, suite: embedded, seeds: 1}}
"""
ENCODER = """\
too_long: {too_long:<33}# drop | cut | split | refuse
split: {{dev: 0.05, test: 0.2}}               # held out of the task: {held_out}
stages:
  - name: train                             # the head alone, on frozen states (LP-FT, arXiv:2202.10054)
    id: probe
    method: {{name: head, kind: linear, pooling: mean, layer: mix}}
    scope: task
    data: task
    losses: [label]
    optimizer: {{name: adamw, lr: 1.0e-2, schedule: cosine, warmup: 0.03}}
    epochs: {epochs}
    batch_tokens: {batch_tokens}
  - name: train                             # then head and body; off the task the encoder stays the base, bitwise
    id: both
    method: [{{name: head, kind: linear, pooling: mean, layer: mix, start_from: probe}}, {{name: lora, rank: 16}}]
    scope: task
    data: task
    losses: [label]
    optimizer: {{name: adamw, lr: 1.0e-3, schedule: cosine, warmup: 0.03}}
    epochs: {epochs}
    batch_tokens: {batch_tokens}
proof: {{target: {{data: task, metric: {metric}}}, suite: embedded, seeds: 1}}
"""
MASKED = """\
too_long: {too_long:<33}# drop | cut | split | refuse
split: {{dev: 0.05, test: 0.2}}               # held out of the texts: {held_out}
stages:
  - name: train                             # a masked language model goes on reading, in texts of yours
    method: {{name: lora, rank: 16}}          # keeptune list methods
    data: task
    losses: [masked_token]
    optimizer: {{name: adamw, lr: 5.0e-4, schedule: cosine, warmup: 0.03}}
    epochs: {epochs}
    batch_tokens: {batch_tokens}
proof: {{target: {{data: task, metric: {metric}}}, suite: embedded, seeds: 1}}   # each token masked in its turn
"""
IMAGES_OF_A_STEP = 32


def write_recipe(data: Path, model: str, output: Path) -> dict[str, Any]:
    """Guesses the format of `data`, writes a recipe to `output` and says what was guessed.

    Raises:
        RecipeError: `output` exists (E-RECIPE-EXISTS), no format fits (from the guess), the model is an encoder and
            the answers are no labels (E-INIT-ENCODER), or one of both is made for images and the other for texts
            (E-INIT-IMAGES).
        DataError: the file cannot be read.
    """
    prepare_output(output)
    guess = guess_format(str(data))
    reading = read_examples(guess.format, "task", gather=True)
    examples = reading.examples
    if reading.counts["bad"] > MOST_BAD * reading.counts["read"]:
        raise reading.bad[0]
    skipped = reading.counts["bad"]
    on_hub = str(data).startswith(PREFIX)
    place = str(data) if on_hub else os.path.relpath(data.absolute(), output.absolute().parent)
    source = guess.format.model_copy(update={"path": place, "skip_bad": skipped})
    labels = label_set(examples)
    plain = all(example.text is not None for example in examples)
    metric = "bits_per_byte" if plain else "label_accuracy" if labels else "rouge_l"
    kind = kind_of(model)
    reads = bool(labels) or (plain and kind == "encoder")
    _check_kind(kind, model, data, images=guess.format.name == "images", reads=reads)
    learning = CHAT if kind not in ("encoder", "image") else MASKED if plain else ENCODER
    small = model == "pocket"
    stated = Counter(example.part for example in examples)
    named = stated_parts(stated)
    batch_tokens = IMAGES_OF_A_STEP * _pixels(examples[0]) if kind == "image" else 4096
    passes = _passes(_trained(examples), model, kind, batch_tokens)
    text = (HEAD + learning).format(
        summary=f"{counted(len(examples), 'row')} of {data.name}, read as {guess.format.name}", file=output.name,
        seed=SEED, name=_name(data), model=model, source=flow(source), metric=metric,
        too_long="split" if plain else "drop",
        rate="2.0e-3" if small else "2.0e-4", epochs=f"{passes.epochs:g}", batch_tokens=batch_tokens,
        held_out="as the column `split` says" if named else "by a stable hash of each row",
    )  # fmt: skip
    atomic_write(output, text)
    notes = [f"{data.name}: {counted(len(examples), 'row')}; {guess.reason}", *_out_of_sight(model)]
    if skipped:
        notes.append(
            f"{counted(skipped, 'bad row is', 'bad rows are')} left out (`skip_bad`), the first: {reading.bad[0]}"
        )
    notes += _of_answers(
        examples, labels or (), writes=kind not in ("encoder", "image"), numbers=getattr(guess.format, "numbers", False)
    )
    if named:
        told_parts = ", ".join(f"{name or 'unnamed'} {stated[name]:,}" for name in sorted(stated))
        notes.append(f"the column `split` decides what is held out: {told_parts}")
    notes.append(_effort(passes, minutes_of(output, passes.steps)))
    told = "\n".join(
        [f"wrote {output}", *[f"  {note}" for note in notes], "", text, f"Next: {typed('keeptune', 'check', output)}"]
    )
    return {"recipe": str(output), "format": guess.format.name, "rows": len(examples), "notes": notes, "text": told}


def _of_answers(examples: Sequence[Example], labels: Sequence[str], *, writes: bool, numbers: bool) -> Iterator[str]:
    """What is to be known of the rows' answers."""
    if labels:
        yield f"{counted(len(labels), 'different answer')}: a label set, so the target is label accuracy"
    if any(example.rejected is not None for example in examples):
        yield "rows have a worse answer too: `losses: [dpo]` learns from both (recipe `dpo`); this one the better"
    if labels and writes and asked_bare(examples, labels):
        yield BARE
    if labels and numbers:
        meant = ", ".join(f"{label}: ..." for label in sorted(labels)[:3])
        yield f"the answers are numbers; a model learns words better: labels: {{{meant}}} in place of numbers"


def kind_of(model: str) -> str:
    """What kind of model it is; a decoder where it is not at hand."""
    from keeptune.models.families import FAMILIES
    from keeptune.models.load import look

    try:
        family = FAMILIES.get(str(look(model)[0].get("model_type")))
    except KeeptuneError:
        family = None
    return "decoder" if family is None else family.kind


def _out_of_sight(model: str) -> list[str]:
    """A note where the model cannot be looked at, and a decoder is supposed."""
    from keeptune.models.load import look

    try:
        look(model)
    except KeeptuneError as error:
        return [f"the recipe is written for a decoder, since this model is not at hand yet: {error}"]
    return []


def _check_kind(kind: str, model: str, data: Path, *, images: bool, reads: bool) -> None:
    """Refuses data that the model cannot read, or answers that it cannot learn."""
    if images != (kind == "image"):
        what = f"these rows are images, and '{model}' is no" if images else f"these rows are texts, and '{model}' is an"
        raise RecipeError(
            f"{what} image encoder{' that is at hand' if images else ''}.",
            code="E-INIT-IMAGES",
            where={"file": data},
            fix="Name a ViT: --model FOLDER." if images else "Name a model that reads texts.",
        )
    if kind in ("encoder", "image") and not reads:
        raise RecipeError(
            f"'{model}' is an encoder, which learns labels or plain texts, and these answers are no label set.",
            code="E-INIT-ENCODER",
            where={"file": data},
            fix="Name a model that writes, or data with a few different answers.",
        )


def _pixels(example: Example) -> int:
    """The numbers of an image, which is what `batch_tokens` counts."""
    found = [image for turn in example.messages if (image := Image.from_dict(turn.extra)) is not None]
    return sum(len(image.pixels) for image in found)


def _passes(examples: Sequence[Example], model: str, kind: str, batch_tokens: int) -> Passes:
    """What the recipe goes through; a decoder's batches are half replay."""
    if kind == "image":
        return passes_over(sum(map(_pixels, examples)), len(examples), share=1.0, batch_tokens=batch_tokens)
    share = 1.0 if kind == "encoder" else 0.5
    return passes_of(examples, tokenizer_of(model), share=share, batch_tokens=batch_tokens)


def _trained(examples: Sequence[Example]) -> list[Example]:
    """The rows that the recipe's split leaves to train on."""
    try:
        return [examples[index] for index in split(examples, HELD_OUT, SEED)["train"]]
    except DataError:
        return list(examples)


def _effort(passes: Passes, minutes: float | None) -> str:
    """What the recipe costs, in a sentence."""
    time = "" if minutes is None else f", about {seconds(60 * minutes)} of training on this machine's processor"
    why = "; less than one pass, for the data is large" if passes.epochs < 1 else ""
    steps = f"{passes.steps:,} step{'s' * (passes.steps != 1)}"
    return f"about {passes.tokens:,} tokens to train on, {passes.epochs:g} times over: {steps}{time}{why}"


def flow(source: FileFormat) -> str:
    """One line of YAML with what the guess settled; other settings keep their defaults."""
    import yaml

    settled = {"format", *source.model_fields_set} - ({"skip_bad"} if not source.skip_bad else set())
    kept = {key: value for key, value in source.to_dict().items() if key in settled}
    return yaml.safe_dump(kept, default_flow_style=True, sort_keys=False, width=200, allow_unicode=True).strip()


def _name(data: Path) -> str:
    stem = data.name.split(".")[0].lower()
    clean = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem).strip("-")
    return (clean or "task")[:63]
