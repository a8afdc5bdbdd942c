"""`keeptune probe`: what each layer of a model holds, with a control task beside every task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from keeptune.core.cache import cache_folder
from keeptune.core.checkpoint import Checkpoint
from keeptune.core.counting import counted
from keeptune.core.digest import digest_of
from keeptune.core.errors import RecipeError, did_you_mean
from keeptune.core.events import cut_broken_end, read_lines
from keeptune.core.files import append_line, atomic_write, make_folder, write_json
from keeptune.core.spec import validate
from keeptune.data.probe_tasks import ProbeTask, control_of
from keeptune.data.word_tokens import Pooling, UnitEncoder
from keeptune.probes import Probe
from keeptune.recipes.material import context_length
from keeptune.recipes.probe_data import EDGES, PARTS, ProbeData, probe_data
from keeptune.recipes.probe_summary import probe_text, summary
from keeptune.recipes.proof import checkpoint_from
from keeptune.recipes.workshop import Workshop
from keeptune.report.probe_page import probe_page
from keeptune.stages._progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from keeptune.evaluations import Subject

LOG, RESULT, PAGE = "probes.jsonl", "probe.json", "probe.html"
REVISION = 2
"""Of how probes learn and are scored: measurements of another one are made again."""


@dataclass(frozen=True)
class Asked:
    """The settings of a probing run.

    Attributes:
        task: `edges`, `label` or a column.
        probes: the families.
        layers: which; all when None.
        pooling: of whole texts.
        seeds: S runs with seeds 0 to S - 1, each with first weights, an order and control answers of its own.
        codelength: send the answers too, with seed 0 alone: that costs about as much as learning once more.
    """

    task: str
    probes: tuple[Probe, ...]
    layers: tuple[int, ...] | None
    pooling: Pooling
    seeds: int
    codelength: bool


@dataclass(frozen=True)
class States:
    """A model's layers for every part, in comparable units.

    Attributes:
        layers: by part, `[U, D]` for each layer.
        identity: of what they were computed from.
        seconds: that computing or reading them took.
        name: of the model.
    """

    layers: dict[str, list[Tensor]]
    identity: str
    seconds: float
    name: str


def probe_models(
    models: Sequence[str], files: dict[str, Path], asked: Asked, output: Path, *, rows: int | None, quiet: bool
) -> dict[str, Any]:
    """Probes one model, or two on the same texts, and writes `probe.json` and `probe.html`.

    Each finished measurement is kept in `output/probes.jsonl`; the same command goes on where it stopped.

    Args:
        models: folders, hub ids, `pocket` or runs; of two the second is compared with the first.
        files: `train`, and maybe `dev` and `test`.
        asked: what is asked, and how.
        output: the folder of the results.
        rows: most texts per part.
        quiet: show no progress.

    Raises:
        KeeptuneError: a model or a file cannot be used, or a setting does not fit.
    """
    if len(models) > 2:
        raise RecipeError("more than two models were given.", code="E-USAGE", fix="Probe one, or compare two.")
    checkpoints = [replace(checkpoint_from(name), dtype="float32") for name in models]
    data = probe_data(files, asked.task, rows)
    for probe in asked.probes:
        probe.check(data.task.kind)
    progress = Progress(quiet=quiet)
    make_folder(output)
    cut_broken_end(output / LOG)
    subjects = [_subject(name, checkpoint) for name, checkpoint in zip(models, checkpoints, strict=True)]
    data = _within_context(data, subjects, asked.pooling, progress)
    log, wanted = output / LOG, set[str]()
    for name, subject in zip(models, subjects, strict=True):
        states = _states(name, subject, data, asked.pooling)
        progress.say(f"{name}: {counted(len(states.layers['train']), 'layer')} of states in {states.seconds:.1f} s")
        wanted |= _measure(states, data, asked, log, progress)
    kept = {row["key"]: row for row in read_lines(log)}
    result = summary([kept[key] for key in sorted(wanted)], data, models, asked.task)
    write_json(output / RESULT, result)
    atomic_write(output / PAGE, probe_page(result))
    return {**result, "page": str(output / PAGE), "text": probe_text(result, output / PAGE)}


def asked_of(
    task: str, probes: Sequence[str], layers: Sequence[int] | None, pooling: str, *, seeds: int, codelength: bool
) -> Asked:
    """The settings as a command line gives them; without probes, `linear` and `mlp` (of edges `bilinear` and `mlp`).

    Raises:
        RecipeError: an unknown probe, setting or pooling.
    """
    if pooling not in get_args(Pooling):
        fix = did_you_mean(pooling, get_args(Pooling))
        raise RecipeError(f"there is no pooling '{pooling}'.", code="E-USAGE", fix=fix)
    usual = ["bilinear" if task == EDGES else "linear", "mlp"]
    found = tuple(probe_of(text) for text in probes or usual)
    chosen = tuple(layers) if layers else None
    return Asked(task, found, chosen, cast("Pooling", pooling), seeds, codelength)


def probe_of(text: str) -> Probe:
    """`mlp:depth=2,width=300` as a probe.

    Raises:
        RecipeError: no such probe or setting.
    """
    name, _, settings = text.partition(":")
    plain: dict[str, Any] = {"name": name}
    for part in filter(None, settings.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            fix = "Write NAME or NAME:SETTING=VALUE,..., as in mlp:depth=2."
            raise RecipeError(f"'{part}' sets nothing.", code="E-USAGE", fix=fix)
        plain[key.strip()] = _number(value.strip())
    probe: Probe = validate(Probe, plain)
    return probe


def _number(value: str) -> Any:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _subject(name: str, checkpoint: Checkpoint) -> Subject:
    return Workshop(trusted=Path(name).expanduser().absolute()).subject(checkpoint)


def _within_context(data: ProbeData, subjects: Sequence[Subject], pooling: Pooling, progress: Progress) -> ProbeData:
    """The texts that every model can read whole."""
    places: dict[str, list[int]] = {part: list(range(len(data.texts[part]))) for part in PARTS}
    for subject in subjects:
        limit = context_length(subject.model.loaded)
        encoded = data.encoded(UnitEncoder(subject.tokenizer), pooling)
        for part, own in places.items():
            places[part] = [place for place in own if 0 < len(encoded[part][place].encoded.tokens) <= limit]
    dropped = sum(len(data.texts[part]) - len(own) for part, own in places.items())
    if dropped:
        progress.say(f"{counted(dropped, 'text is', 'texts are')} longer than the context and left out")
    return data.only(dict(places))


def _states(name: str, subject: Subject, data: ProbeData, pooling: Pooling) -> States:
    """Each dimension of each layer with mean 0 and standard deviation 1 over the training units.

    A layer's scale is then no reason why a probe of a fixed learning rate reads it better than another.
    """
    from keeptune.engine.unit_states import unit_states
    from keeptune.models.tensor_store import TensorStore

    begun = time.monotonic()
    encoded = data.encoded(UnitEncoder(subject.tokenizer), pooling)
    store = TensorStore(cache_folder() / "states")
    with subject.on_task():
        layers = {part: unit_states(subject.model, rows, store=store) for part, rows in encoded.items()}
    for number, train in enumerate(layers["train"]):
        mean, spread = train.mean(dim=0), train.std(dim=0, correction=0).clamp(min=1e-6)
        for part in PARTS:
            layers[part][number] = (layers[part][number] - mean) / spread
    return States(layers, digest_of(subject.identity()), time.monotonic() - begun, name)


def _measure(states: States, data: ProbeData, asked: Asked, log: Path, progress: Progress) -> set[str]:
    """Every measurement that the log does not hold; the keys of all."""
    layers = range(len(states.layers["train"])) if asked.layers is None else asked.layers
    last = len(states.layers["train"]) - 1
    if any(not 0 <= layer <= last for layer in layers):
        fix = f"They go from 0, the embeddings, to {last}."
        raise RecipeError(f"{states.name} has no such layer.", code="E-PROBE-LAYER", where={"key": "layers"}, fix=fix)
    done = {row["key"] for row in read_lines(log)}
    of_data = digest_of([[text.text for text in data.texts[part]] for part in PARTS] + [data.task.answers])
    combined = [(seed, layer, probe) for seed in range(asked.seeds) for probe in asked.probes for layer in layers]
    keys = set()
    with progress.track(f"probes of {states.name}", len(combined)) as track:
        for seed, layer, probe in combined:
            send = asked.codelength and seed == 0
            settings = [probe.to_dict(), layer, seed, asked.pooling, send]
            key = digest_of([REVISION, states.identity, of_data, settings])
            keys.add(key)
            if key not in done:
                row = _measured(states, data, probe, layer, seed, send=send)
                append_line(log, {"key": key, "model": states.name, "layer": layer, "seed": seed, **row})
            track.advance()
    return keys


def _measured(states: States, data: ProbeData, probe: Probe, layer: int, seed: int, *, send: bool) -> dict[str, Any]:
    """The task and its control task, answered by the same family from the same states."""
    begun = time.monotonic()
    own = _answered(states, data.task, probe, layer, seed, send=send)
    control = _answered(states, control_of(data.task, data.types, seed), probe, layer, seed, send=send)
    spent = round(time.monotonic() - begun, 2)
    return {"probe": probe.to_dict(), "title": probe.title, "task": own, "control": control, "seconds": spent}


def _answered(states: States, task: ProbeTask, probe: Probe, layer: int, seed: int, *, send: bool) -> dict[str, Any]:
    import torch

    from keeptune.probes._codelength import codelength
    from keeptune.probes._material import Material
    from keeptune.probes._regime import fit, right

    parts = {part: Material.of(states.layers[part][layer], task.answers[part], task.kind) for part in PARTS}
    classes = len(task.classes)
    fitted = fit(probe, classes, parts["train"], parts["dev"], seed)
    test = parts["test"]
    texts = test.text_of()[test.scored()]
    hits = torch.zeros(test.texts, dtype=torch.long).index_add_(0, texts, right(fitted.net, test).long())
    sent = codelength(probe, classes, parts["train"], parts["dev"], seed) if send else None
    return {
        "right": hits.tolist(),
        "asked": torch.bincount(texts, minlength=test.texts).tolist(),
        "epochs": fitted.epochs,
        "dev_loss": round(fitted.dev_loss, 5),
        "parameters": sum(parameter.numel() for parameter in fitted.net.parameters()),
        "bits": None if sent is None else round(sent.bits, 1),
        "uniform": None if sent is None else round(sent.uniform, 1),
    }
