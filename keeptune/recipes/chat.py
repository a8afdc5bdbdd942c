"""`keeptune chat`: the base's answer beside the adapted model's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.errors import PlanError
from keeptune.core.example import Message
from keeptune.core.files import read_json
from keeptune.recipes.workshop import Workshop
from keeptune.report.run_files import part_of

if TYPE_CHECKING:
    from keeptune.evaluations import Subject

MAX_NEW_TOKENS = 128


def answers(folder: Path, prompt: str, workshop: Workshop | None = None) -> dict[str, str]:
    """Greedy answers by `base` and `adapted`; a routed adapter makes a third, `on task`.

    Raises:
        MachineError: the folder holds no finished run (E-RUN-UNFINISHED).
        DataError: the prompt is empty (E-DATA-EMPTY) or fills the context (E-DATA-LONG).
    """
    workshop = workshop or Workshop(trusted=folder.absolute())
    adapted = checkpoint_of(folder)
    base = base_of(folder, adapted)
    told = {"base": _answer(workshop.subject(base), prompt, on_task=False)}
    told["adapted"] = _answer(workshop.subject(adapted), prompt, on_task=False)
    if adapted.deployment == "routed":
        told["on task"] = _answer(workshop.subject(adapted), prompt, on_task=True)
    return told


def conversation(folder: Path) -> None:
    """Reads prompts from the terminal until an empty line or the end of input."""
    workshop = Workshop(trusted=folder.absolute())
    checkpoint_of(folder)
    print("One request a line; an empty line ends.")
    while True:
        try:
            prompt = input("\nyou      ").strip()
        except EOFError:
            return
        if not prompt:
            return
        for name, text in answers(folder, prompt, workshop).items():
            print(f"{name:<8} {text}")


def checkpoint_of(folder: Path) -> Checkpoint:
    """What a finished run made.

    Raises:
        MachineError: there is no such folder (E-RUN-MISSING), or none in it (E-RUN-UNFINISHED).
    """
    return Checkpoint.from_dict(read_json(part_of(folder, "checkpoint.json")), relative_to=folder.absolute())


def base_of(folder: Path, adapted: Checkpoint) -> Checkpoint:
    """The checkpoint that the run started from."""
    import yaml

    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    model = recipe["model"]
    return Checkpoint(model["name"], model.get("revision"), adapted.dtype, quantize=model.get("quantize"))


def _answer(subject: Subject, prompt: str, *, on_task: bool) -> str:
    from keeptune.data.encode import encode_prompt, stop_ids
    from keeptune.engine.generation import generate
    from keeptune.evaluations._free_answers import refuse_long

    if not subject.speaks:
        raise PlanError(
            "this model reads and writes nothing, so there is no answer to show.",
            code="E-CHAT-SILENT",
            fix="What its head says of the test rows stands in items.jsonl.gz of the run.",
        )
    turns = [Message("user", prompt)]
    tokens = encode_prompt(turns, subject.tokenizer)
    refuse_long(subject, [turns])
    with subject.on_task() if on_task else subject.off_task():
        made = generate(
            subject.model, subject.tokenizer, [tokens], max_new_tokens=MAX_NEW_TOKENS,
            stop_ids=stop_ids(subject.tokenizer),
        )  # fmt: skip
    return str(subject.tokenizer.decode(made[0], skip_special_tokens=True)).strip()
