"""`keeptune prove`: a certificate for any two checkpoints, whoever trained them."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from keeptune.core.cache import cache_folder
from keeptune.core.checkpoint import AdapterRef, Checkpoint
from keeptune.core.errors import RecipeError
from keeptune.core.run import Run
from keeptune.core.spec import validate
from keeptune.core.typed import typed
from keeptune.core.usage import measured
from keeptune.data.guess import guess_format
from keeptune.data.label_set import LABELLED
from keeptune.data.read import Reading, read_examples
from keeptune.evaluations import Context, Evaluation
from keeptune.evaluations._endpoint import is_endpoint
from keeptune.evaluations.drift import Drift
from keeptune.evaluations.format_drift import FormatDrift
from keeptune.evaluations.harness import Harness
from keeptune.evaluations.served import Served
from keeptune.evaluations.target import Target
from keeptune.recipes.chat import checkpoint_of
from keeptune.recipes.contamination import seen_by, suite_parts
from keeptune.recipes.diagnosing import with_diagnosis
from keeptune.recipes.looks import Looked, adapted_in_parts
from keeptune.recipes.measuring import general_of, measure, refuse_unknown_margins, suite_of
from keeptune.recipes.provenance import PACKAGES
from keeptune.recipes.recipe import Model
from keeptune.recipes.run import finished
from keeptune.recipes.same_proof import asked_of, shown_again
from keeptune.recipes.sources import refuse_new_labels
from keeptune.recipes.within_context import within_context
from keeptune.recipes.workshop import Workshop
from keeptune.recipes.yaml_file import read_yaml
from keeptune.report.language import Language
from keeptune.stages._progress import Progress
from keeptune.stages._rescoring import rescore
from keeptune.stages.prove import Margins, certify

if TYPE_CHECKING:
    from keeptune.core.score import Score

ROWS = "target"
NAMES = {"test": "target", "ood": "out of distribution", "train": "trained on"}
"""Of the files, as the page shows them."""


def prove(before: str | Path, after: str | Path, **settings: Any) -> dict[str, Any]:
    """Certifies two checkpoints from Python; see `prove_pair`. Returns the certificate."""
    output = Path(settings.pop("output", "runs/proof"))
    certificate: dict[str, Any] = prove_pair(str(before), str(after), output, **settings)["certificate"]
    return certificate


def prove_pair(
    before: str,
    after: str,
    output: Path,
    *,
    target: Path | None = None,
    metric: str = "exact_match",
    ood: Path | None = None,
    suite: str = "embedded",
    margins: Path | None = None,
    train_data: Path | None = None,
    force: bool = False,
    diagnose: bool = False,
    sequential: bool = False,
    lang: str = "en",
    quiet: bool = True,
) -> dict[str, Any]:
    """Measures both on the same items and writes `output/certificate.json` and `.html`.

    Args:
        before: a model folder, a hub id, `pocket`, a finished run, or an endpoint, `http://host/v1#model`.
        after: the same, or a PEFT adapter folder over `before`.
        output: the folder of the proof.
        target: a data file with the task's test rows.
        metric: of the target.
        ood: a data file of the same kind from elsewhere, measured by the same metric.
        suite: `embedded`, or a suite file.
        margins: a YAML file that overrides the default margins.
        train_data: what `after` was trained on: every measured item is looked for in it, and its answers are the
            training format.
        force: take an adapter although it was trained on another base, tokenizer or template; the certificate says so.
        diagnose: tell form, recoverable loss and knowledge apart; takes minutes more.
        sequential: ask `after` in parts and stop when the verdict stands.
        lang: language of the page, en or zh.
        quiet: show no progress.

    Raises:
        KeeptuneError: a checkpoint or a file cannot be used.
    """
    from keeptune.models.load import look

    progress = Progress(quiet=quiet)
    if lang not in get_args(Language):
        raise RecipeError(f"the page is not written in '{lang}'.", code="E-USAGE", fix="Use --lang en, or --lang zh.")
    validate(Target, {"data": ROWS, "metric": metric})
    base, adapted = pair_from(before, after)
    _one_back_end(base, adapted, metric=metric if target else None, diagnose=diagnose, sequential=sequential)
    if not is_endpoint(base.base):
        # A model that cannot be opened is told before the other one is measured.
        for name, revision in {(one.base, one.revision): None for one in (base, adapted)}:
            look(name, revision)
    fixed = validate(Margins, read_yaml(margins)[0] or {}, file=str(margins)) if margins else Margins()
    files = {name: path for name, path in (("test", target), ("ood", ood), ("train", train_data)) if path is not None}
    pair = Pair(
        base, adapted, _readings(files, metric), metric, suite, fixed, progress, force, diagnose,
        cast(Language, lang), sequential,
    )  # fmt: skip
    with Run.open(output) as run, run.signals(), run.at_work():
        certificate = pair.certificate(run)
    return finished(output, certificate)


def checkpoint_from(name: str, over: Checkpoint | None = None) -> Checkpoint:
    """What a user means by a model: a run's result, an adapter folder over another model, or a model."""
    folder = Path(name).expanduser()
    if _is_run(name):
        return checkpoint_of(folder)
    if any((folder / file).is_file() for file in ("adapter_config.json", "adapter.json")):
        if over is None:
            raise RecipeError(
                f"'{name}' is an adapter; a proof begins with a model.", code="E-USAGE",
                fix="Give the base model first and the adapter second.",
            )  # fmt: skip
        taken = {ref.name for ref in over.adapters}
        after = next(name for name in ("after", *(f"after-{n}" for n in range(2, len(taken) + 3))) if name not in taken)
        return replace(over, adapters=(*over.adapters, AdapterRef(after, folder.absolute())))
    return Model(name=name).checkpoint


def pair_from(before: str, after: str) -> tuple[Checkpoint, Checkpoint]:
    """What a user means by two models; one that is named alone is taken in the dtype of the run beside it."""
    base = checkpoint_from(before)
    adapted = checkpoint_from(after, over=base)
    if not _is_run(before):
        return replace(base, dtype=adapted.dtype), adapted
    return base, adapted if _is_run(after) else replace(adapted, dtype=base.dtype)


def _is_run(name: str) -> bool:
    return (Path(name).expanduser() / "checkpoint.json").is_file()


def _one_back_end(
    base: Checkpoint, adapted: Checkpoint, *, metric: str | None, diagnose: bool, sequential: bool
) -> None:
    """Two endpoints, or none; and nothing that needs more of a server than its answers.

    Raises:
        RecipeError: E-ENDPOINT-PAIR.
    """
    served = [is_endpoint(one.base) for one in (base, adapted)]
    if not any(served):
        return
    wrong = None
    if not all(served):
        wrong = "one model is served and the other is not: the same item could score differently for that alone."
    elif metric in (*LABELLED, "bits_per_byte", "preference_accuracy"):
        wrong = f"'{metric}' ranks likelihoods of chat answers, which no endpoint tells."
    elif diagnose or sequential:
        wrong = "a diagnosis and sequential sampling need the model itself."
    if wrong:
        raise RecipeError(
            wrong, code="E-ENDPOINT-PAIR",
            fix="Serve both models, score the target by exact_match, token_f1 or rouge_l, and leave the rest out.",
        )  # fmt: skip


@dataclass
class Pair:
    """Two checkpoints and everything that they are compared with.

    Attributes:
        files: what was read, by part: `test` is the target, `ood` its shifted rows, `train` what was trained on.
    """

    base: Checkpoint
    adapted: Checkpoint
    files: dict[str, Reading]
    metric: str
    suite: str
    margins: Margins
    progress: Progress
    force: bool = False
    diagnose: bool = False
    lang: Language = "en"
    sequential: bool = False

    def certificate(self, run: Run) -> dict[str, Any]:
        """That of an equal proof that stands here; else measures both sides, writes it and its page."""
        from keeptune.models.device import scoring_tokens
        from keeptune.report.page import write_certificate

        workshop = Workshop(trusted=run_of(self.adapted), force=self.force)
        context = Context(
            subject=workshop.subject,
            base=self.base,
            data={f"{ROWS}/{part}": reading.examples for part, reading in self.files.items()},
            suite=suite_of(self.suite, None),
            batch_tokens=scoring_tokens(),
            cache=cache_folder(),
        )
        assert context.suite is not None, "a proof asks a suite"
        refuse_unknown_margins(self.margins, context.suite)
        certificate = shown_again(run, self._asked(context), served=is_endpoint(self.base.base))
        if certificate is None:
            certificate = self._measured(context, workshop, run)
            run.write_json("certificate.json", certificate)
        else:
            self.progress.say("proven before, nothing to do")
        write_certificate(run.folder, self.lang)
        return certificate

    def _measured(self, context: Context, workshop: Workshop, run: Run) -> dict[str, Any]:
        """Measures both sides, and takes the verdict."""
        chosen, speaks = self._evaluations(context)
        context = self._readable(context)
        drift = [Drift(data=ROWS)] if speaks and not is_endpoint(self.base.base) else []
        with measured() as usage:
            run.enter("baseline")
            before = self._measure("base", chosen, self.base, context, run)
            seen = self._seen(context, before)
            run.write_json("data.json", {"sources": self._counts(), "contamination": seen})
            run.enter("running")
            looked = self._adapted([*chosen, *drift], before, context, run)
            again = {} if is_endpoint(self.base.base) else rescore(self.base, context, thorough=self.diagnose)
        certificate = certify(
            looked.base,
            looked.adapted,
            rescored=again,
            margins=self.margins,
            seeds=[0],
            deployment=self.adapted.deployment,
            cost={"seconds": {"proof": round(usage.seconds, 2)}, "peak_bytes": usage.peak_bytes},
            provenance={**self._provenance(context), "contamination": seen},
            level=looked.level,
            whole=before,
        )
        certificate["sequential"], certificate["left_out"] = looked.told, context.left_out
        if self.diagnose:
            certificate = with_diagnosis(
                certificate, looked.base, looked.adapted, self.adapted, context, workshop, ROWS
            )
        return certificate

    def _evaluations(self, context: Context) -> tuple[list[Evaluation], bool]:
        """What both sides are asked, and whether they write text: the target, the suite, shifted rows, requests."""
        suite, subject = context.suite, context.subject(self.base)
        assert suite is not None, "a proof asks a suite"
        if subject.kind == "encoder":  # which finds the other half of a text, and continues no prompt
            suite = context.suite = replace(suite, tasks=(), generations=())
        served = is_endpoint(self.base.base)
        general = [Served(), *([Harness()] if suite.harness else [])] if served else general_of(subject, suite)
        target = self._target()
        if target is None:
            return general, subject.speaks
        shifted = [target.model_copy(update={"split": "ood"})] if "ood" in self.files else []
        return [target, *general, *shifted, *([FormatDrift(data=ROWS)] if subject.speaks else [])], subject.speaks

    def _readable(self, context: Context) -> Context:
        """Without what is longer than the context of one of the two."""
        names = {f"{ROWS}/{part}": name for part, name in NAMES.items()}
        return within_context(
            context, [context.subject(one) for one in (self.base, self.adapted)], self._target(), names
        )

    def _target(self) -> Target | None:
        """What is asked of the target's rows; None without any."""
        return Target.model_validate({"data": ROWS, "metric": self.metric}) if "test" in self.files else None

    def _adapted(self, chosen: list[Evaluation], before: list[Score], context: Context, run: Run) -> Looked:
        """Scores of the adapted model: of everything, or of parts until the verdict stands."""
        if not self.sequential:
            return Looked.all_at_once(before, self._measure("adapted", chosen, self.adapted, context, run))
        looked = adapted_in_parts(
            before, chosen, self.adapted, context, self.margins, self.progress, run.stop_requested
        )
        run.write_items("adapted", looked.adapted)
        return looked

    def _measure(
        self, label: str, chosen: list[Evaluation], checkpoint: Checkpoint, context: Context, run: Run
    ) -> list[Score]:
        scores = measure(label, chosen, checkpoint, context, self.progress, run.stop_requested)
        run.write_items(label, scores)
        return scores

    def _seen(self, context: Context, before: list[Score]) -> list[dict[str, Any]] | None:
        """What the training file holds of everything that is measured; None when nobody said what was trained on."""
        if "train" not in self.files:
            return None
        own = {NAMES[part]: context.rows(ROWS, part) for part in ("test", "ood") if part in self.files}
        return seen_by(self.files["train"].examples, {**own, **suite_parts(context.suite, before)})

    def _counts(self) -> dict[str, Any]:
        return {NAMES[part]: dict(reading.counts) for part, reading in self.files.items()}

    def _asked(self, context: Context) -> dict[str, Any]:
        """Everything that the numbers hang on."""
        assert context.suite is not None, "a proof asks a suite"
        sides = {"before": self.base, "after": self.adapted}
        models = {
            side: one.to_dict() if is_endpoint(one.base) else [one.dtype, one.quantize, context.subject(one).identity()]
            for side, one in sides.items()
        }
        data = {NAMES[part]: reading.digest for part, reading in self.files.items()}
        plain = {"margins": self.margins.to_dict(), "metric": self.metric if "test" in self.files else None}
        flags = {"force": self.force, "diagnose": self.diagnose, "sequential": self.sequential}
        return asked_of(models, data, context.suite.stamp(), {**plain, **flags})

    def _provenance(self, context: Context) -> dict[str, Any]:
        sides = {"before": self.base, "after": self.adapted}
        served = is_endpoint(self.base.base)
        return {
            "command": typed("keeptune", *sys.argv[1:]),
            **{side: checkpoint.to_dict() for side, checkpoint in sides.items()},
            "digests": None if served else {side: context.subject(one).identity() for side, one in sides.items()},
            "data": {NAMES[part]: reading.digest for part, reading in self.files.items()},
            "suite": None if context.suite is None else context.suite.stamp(),
            "forced": self.force,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "versions": {name: version(name) for name in PACKAGES},
        }


def _readings(files: dict[str, Path], metric: str) -> dict[str, Reading]:
    """Every file, by part.

    Raises:
        RecipeError: shifted rows without a target (E-USAGE).
        DataError: a file or a row of it cannot be used, or the shifted rows have labels of their own.
    """
    if "ood" in files and "test" not in files:
        raise RecipeError(
            "rows out of distribution are compared beside the task's own.", code="E-USAGE",
            fix="Name the task's rows with --target.",
        )  # fmt: skip
    found = {part: read_examples(guess_format(str(path)).format, ROWS) for part, path in files.items()}
    if metric in LABELLED and "ood" in found:
        known = [row for part in ("test", "train") if part in found for row in found[part].examples]
        refuse_new_labels(known, found["ood"].examples, key="ood")
    return found


def run_of(checkpoint: Checkpoint) -> Path | None:
    """The run folder that made a checkpoint, if a run did."""
    paths = [Path(checkpoint.base), *(ref.path for ref in checkpoint.adapters)]
    return next((path.parents[2] for path in paths if len(path.parents) > 2 and path.parents[1].name == "stages"), None)
