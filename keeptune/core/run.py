"""Run: the folder in which everything that happened stands, and the rules by which it is written.

`state.json`, `events.jsonl`, `metrics.jsonl`, `exactness.json`, `recipe.yaml`, `manifest.json`, `items.jsonl.gz`,
`scores.json` and `stages/<index>-<id>/`. Whoever watches a run (the report, a page) only reads these files.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from keeptune.core.checkpoint import Checkpoint
from keeptune.core.commit import MANIFEST, sweep, verify, write_commit
from keeptune.core.digest import digest_of
from keeptune.core.disk import disk_errors, prepare_folder
from keeptune.core.errors import KeeptuneError, MachineError, ModelError, RecipeError
from keeptune.core.events import cut_broken_end, now, read_lines
from keeptune.core.exactness import REFUSED, Found, differences, nameless, refusal
from keeptune.core.files import append_line, atomic_write, jsonable, make_folder, read_json, write_json
from keeptune.core.items import read_scores, write_scores
from keeptune.core.lock import Holder, RunLock
from keeptune.core.score import Score
from keeptune.core.signals import StopRequest, listening

SCHEMA = 1
HEARTBEAT_SECONDS = 1.0

MADE = ("stages", "metrics.jsonl", "scores.json")
"""What a run folder holds once something was measured or trained."""
PROVEN = ("scores.json", "certificate.json")
"""What a folder without an exactness set, such as that of several seeds, may hold and not lose."""
ENDED = ("interrupted", "failed", "done")
FOLLOWS = {
    "new": ("checking", *ENDED),
    "checking": ("baseline", "running", "stopping", *ENDED),
    "baseline": ("running", "stopping", *ENDED),
    "running": ("baseline", "stopping", *ENDED),
    "stopping": ENDED,
    "interrupted": ("checking",),
    "failed": ("checking",),
    "done": ("checking",),
}
"""Which states may follow a state. The base is measured before the stages, or between them when that is cheaper."""


class Run:
    """One run folder, held by this process; also a context manager that gives the lock back.

    Attributes:
        folder: absolute path; everything inside refers to it relatively, so the folder can be moved.
        fork: differences to the stored exactness set start anew from the weights instead of being refused.
        forked: whether that happened in this process.
        stop_requested: set by a signal within `signals()`.
        lock: held until `close`.
    """

    def __init__(self, folder: Path, lock: RunLock, fork: bool) -> None:
        self.folder, self.lock, self.fork = folder, lock, fork
        self.forked = False
        self.stop_requested = StopRequest()
        self._state = "new"
        self._beat = 0.0
        self._events = 0

    @classmethod
    def open(cls, folder: Path | str, *, fork: bool = False) -> Run:
        """Makes or reopens a run folder: checks it, locks it, and clears what a killed process left.

        Raises:
            MachineError: E-RUN-FOLDER, E-RUN-SPACE, E-RUN-LOCKED or E-RUN-DISK.
            ModelError: a newer keeptune wrote the folder (E-RUN-SCHEMA).
        """
        path = Path(os.path.abspath(Path(folder).expanduser()))
        prepare_folder(path)
        run = cls(path, RunLock(path), fork)
        with disk_errors(path):
            run.lock.acquire()
        try:
            with disk_errors(path):
                run._recover()
        except BaseException:
            run.lock.release()
            raise
        return run

    def close(self) -> None:
        """Gives the lock back. A run that was still working is seen as interrupted."""
        if self._state not in ("new", *ENDED):
            with contextlib.suppress(OSError, MachineError):
                self.enter("interrupted")
        self.lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def state(self) -> str:
        """One of the keys of `FOLLOWS`."""
        return self._state

    def enter(self, state: str, detail: str = "") -> None:
        """Moves to a state and writes `state.json`; `detail` says more to people, such as the stage's id."""
        assert state in FOLLOWS, f"no such state: {state}"
        assert state == self._state or state in FOLLOWS[self._state], f"{state} cannot follow {self._state}"
        self._state = state
        self._write_state(detail)
        self.event("state", state=state, detail=detail)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """From `checking` to `done`; an error ends as `failed` or `interrupted`, in the state and in the block.

        Who is refused because the folder holds something else leaves it in the state that it was in.
        """
        before = self._state
        self.enter("checking")
        try:
            yield
        except KeeptuneError as error:
            ended = "interrupted" if error.exit_code == 75 else "failed"
            refused = error.code == REFUSED and before in ENDED
            self.enter(before if refused else ended, f"{error.code} {error.what}"[:500])
            raise
        self.enter("done")

    def event(self, kind: str, **fields: Any) -> None:
        """Appends to `events.jsonl`. `n` counts on across restarts, for a clock may jump back."""
        self._append("events.jsonl", {"n": self._events, "time": now(), "kind": kind, **fields}, durable=True)
        self._events += 1

    def metric(self, step: int, **fields: Any) -> None:
        """Appends to `metrics.jsonl`; a value that is not finite is written as `"nan"` or `"inf"`, never as 0.0."""
        self._append("metrics.jsonl", {"step": step, "time": now(), **fields}, durable=False)

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics in order; of a step that a resumed run did twice, the later record."""
        last = {(row.get("stage"), row["step"]): row for row in read_lines(self.folder / "metrics.jsonl")}
        return list(last.values())

    def events(self) -> list[dict[str, Any]]:
        """The events in order."""
        return read_lines(self.folder / "events.jsonl")

    def beat(self) -> None:
        """Says that the process works on; at most once a second, so it may be called at every step."""
        if time.monotonic() - self._beat > HEARTBEAT_SECONDS:
            self._beat = time.monotonic()
            with disk_errors(self.folder):
                path = self.folder / "heartbeat"
                path.touch()

    def stage_folder(self, index: int, stage_id: str) -> Path:
        """`stages/<index>-<id>`, made if needed.

        Raises:
            RecipeError: the id cannot be a folder's name (E-RECIPE-ID).
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", stage_id):
            raise RecipeError(
                f"'{stage_id[:80]}' cannot be the id of a stage.",
                code="E-RECIPE-ID",
                where={"key": f"stages[{index}].id"},
                fix="Use at most 64 lower-case letters, digits, '-' and '_', beginning with a letter or a digit.",
            )
        path = self.folder / "stages" / f"{index}-{stage_id}"
        with disk_errors(path):
            make_folder(path)
        return path

    def commit_stage(
        self, index: int, stage_id: str, digest: str, checkpoint: Checkpoint, info: Mapping[str, Any]
    ) -> Path:
        """Records that a stage is done: what it made, and the digest of everything that it depends on."""
        plain = checkpoint.to_dict(relative_to=self.folder)
        folder = write_commit(
            self.stage_folder(index, stage_id),
            "done",
            lambda staging: write_json(staging / "checkpoint.json", plain),
            info={**info, "digest": digest},
        )
        self.event("stage_done", index=index, stage=stage_id, digest=digest)
        return folder

    def stage_done(self, index: int, stage_id: str, digest: str) -> Checkpoint | None:
        """The checkpoint that an equal stage (same digest) left; `None` when it must run.

        The files that the checkpoint refers to are verified too. Damage is an event, no error: the stage runs again.
        """
        folder = self.stage_folder(index, stage_id) / "done"
        if not folder.exists():
            return None
        try:
            commit = verify(folder)
            if commit.info.get("digest") != digest:
                return None
            checkpoint = Checkpoint.from_dict(read_json(folder / "checkpoint.json"), relative_to=self.folder)
            for inner in self._commits_of(checkpoint):
                verify(inner)
        except (ModelError, MachineError) as error:
            self.event("damaged", path=folder.relative_to(self.folder), code=error.code, what=error.what)
            return None
        return checkpoint

    def check_exactness(
        self, current: Mapping[str, Any], refused: Callable[[Path, Found], RecipeError] = refusal
    ) -> None:
        """Stores the exactness set of a new run; compares a resumed run with it.

        A run that ended before it measured or trained anything, as by a setting that the model refuses, is new.
        With `fork` a difference replaces the stored set and sets `forked`: take weights only, count steps from zero.

        Args:
            current: the set, plain data.
            refused: the error for what differs, in the words of whoever works here.

        Raises:
            RecipeError: something differs, each difference listed, or nobody knows how what is there was made
                (E-RESUME-DIFFERENT).
        """
        path, new = self.folder / "exactness.json", jsonable(current)
        stored = self._stored_exactness()
        if stored is None and not self.fork and any((self.folder / name).exists() for name in PROVEN):
            raise nameless(self.folder)
        if stored is not None and any((self.folder / name).exists() for name in MADE):
            found = differences(stored, new)
            if found and not self.fork:
                raise refused(self.folder, found)
            if found:
                self.forked = True
                self.event("forked", differences=[list(entry) for entry in found])
        with disk_errors(path):
            write_json(path, new)

    @property
    def exactness_digest(self) -> str:
        """Digest of the stored exactness set, for the `info` of commits; empty before `check_exactness`."""
        stored = self._stored_exactness()
        return digest_of(stored) if stored is not None else ""

    def write_recipe(self, plain: Mapping[str, Any]) -> None:
        """`recipe.yaml`: the resolved recipe, defaults filled in."""
        import yaml

        text = yaml.safe_dump(jsonable(plain), sort_keys=False, allow_unicode=True, width=120)
        with disk_errors(self.folder):
            atomic_write(self.folder / "recipe.yaml", text)

    def write_manifest(self, plain: Mapping[str, Any]) -> None:
        """`manifest.json`: versions, digests of data and models, the command."""
        self.write_json("manifest.json", plain)

    def write_json(self, name: str, plain: Any) -> None:
        """A JSON file of the run folder, replaced atomically; numbers that are not finite become strings."""
        with disk_errors(self.folder):
            write_json(self.folder / name, plain)

    def write_items(self, label: str, scores: Sequence[Score]) -> None:
        """Puts the scores and items of one checkpoint (`base`, `adapted`) in place of earlier ones under that label."""
        with disk_errors(self.folder):
            write_scores(self.folder, label, scores)

    def read_items(self, label: str) -> list[Score]:
        """The scores with their items as `write_items` stored them; empty when there are none, or not all."""
        return read_scores(self.folder, label)

    @contextlib.contextmanager
    def signals(self, say: Callable[[str], None] | None = None) -> Iterator[StopRequest]:
        """Within the block SIGINT, SIGTERM and SIGHUP set `stop_requested`; a second one ends the process at once."""
        with listening(self.stop_requested, say):
            yield self.stop_requested

    def _append(self, name: str, plain: Mapping[str, Any], *, durable: bool) -> None:
        with disk_errors(self.folder):
            append_line(self.folder / name, plain, durable=durable)
        self.beat()

    def _write_state(self, detail: str) -> None:
        holder = Holder.here()
        state = {"schema": SCHEMA, "state": self._state, "since": now(), "detail": detail}
        with disk_errors(self.folder):
            write_json(
                self.folder / "state.json", {**state, "pid": holder.pid, "host": holder.host, "boot": holder.boot}
            )

    def _recover(self) -> None:
        """Reads the state and removes half-written lines and folders; a state of work without a process is a death."""
        sweep(self.folder)
        cut = {name: cut_broken_end(self.folder / name) for name in ("events.jsonl", "metrics.jsonl")}
        self._events = len(self.events())
        before = self._stored_state()
        self._state = before if before in ("new", *ENDED) else "interrupted"
        if before == "new":
            self._write_state("")
        elif before != self._state:
            self._write_state("the process ended without saying so")
            self.event("died", state=before)
        for name, count in cut.items():
            if count:
                self.event("cut", file=name, bytes=count)

    def _stored_state(self) -> str:
        path = self.folder / "state.json"
        try:
            stored = read_json(path)
            schema, state = int(stored["schema"]), str(stored["state"])
        except FileNotFoundError:
            return "new"
        except (ValueError, TypeError, KeyError):
            return "unreadable"
        if schema > SCHEMA:
            what = f"a newer keeptune wrote this run folder (version {schema}; this one reads up to {SCHEMA})."
            raise ModelError(what, code="E-RUN-SCHEMA", where={"file": path}, fix="Update keeptune.")
        return state

    def _stored_exactness(self) -> dict[str, Any] | None:
        path = self.folder / "exactness.json"
        try:
            stored = read_json(path)
        except FileNotFoundError:
            return None
        except ValueError:
            stored = None
        if not isinstance(stored, dict):
            what = "the file with the settings that this run started with is damaged."
            fix = "Choose another --output."
            raise ModelError(what, code="E-RUN-DAMAGED", where={"file": str(path)}, fix=fix)
        return stored

    def _commits_of(self, checkpoint: Checkpoint) -> list[Path]:
        """The committed folders inside this run that a checkpoint needs."""
        needed = [Path(checkpoint.base), *(adapter.path for adapter in checkpoint.adapters)]
        inside = [path for path in needed if path.is_absolute() and path.is_relative_to(self.folder)]
        return [self._committed_above(path) for path in inside]

    def _committed_above(self, path: Path) -> Path:
        """The innermost folder with a manifest that holds `path`; if none, `path` itself, which will not verify."""
        above = [folder for folder in (path, *path.parents) if self.folder in folder.parents]
        return next((folder for folder in above if (folder / MANIFEST).exists()), path)
