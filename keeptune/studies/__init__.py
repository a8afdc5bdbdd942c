"""The studies shelf: one question about adaptation per file, answered by a grid of small runs of one recipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeptune.core.digest import digest_of
from keeptune.core.files import make_folder, read_json, write_json
from keeptune.core.run import Run
from keeptune.core.signals import StopRequest
from keeptune.core.spec import Spec
from keeptune.stages._progress import Progress

if TYPE_CHECKING:
    from keeptune.recipes.recipe import Recipe
    from keeptune.recipes.workshop import Workshop

Plain = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What a study gets beside its own settings.

    Attributes:
        run: the study's folder, locked.
        recipe: what is varied.
        recipe_folder: against which the recipe's relative paths are read.
        workshop: opens models; every arm shares its copy of the base.
        progress: where the user sees it move.
    """

    run: Run
    recipe: Recipe
    recipe_folder: Path | None
    workshop: Workshop
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))

    @property
    def stop(self) -> StopRequest:
        """Set by a signal."""
        return self.run.stop_requested

    def folder(self, arm: str) -> Path:
        """Where an arm runs."""
        return self.run.folder / "arms" / arm

    def once(self, arm: str, decides: Any, make: Callable[[], Plain]) -> Plain:
        """An arm's result: read when it was made from the same, else made and committed to `result.json`.

        The result says in `seconds` what the call took that finished the arm.

        Args:
            arm: its name, which is a folder's.
            decides: plain data of everything that decides the result; what was made from something else is made anew.
            make: makes it. The folder of the arm is its own; a stopped arm resumes where its runs can.
        """
        path, key = self.folder(arm) / "result.json", digest_of(decides)
        if path.exists() and (stored := read_json(path))["key"] == key:
            found: Plain = stored["result"]
            return found
        make_folder(path.parent)
        begun = time.monotonic()
        made = make()
        made = {**made, "seconds": round(time.monotonic() - begun, 1)}
        write_json(path, {"key": key, "decides": decides, "result": made})
        return made

    @contextmanager
    def arms(self, label: str, count: int) -> Iterator[Callable[[str], None]]:
        """Shows how many arms are done; call with a sentence after each."""
        with self.progress.track(label, count) as track:

            def done(text: str) -> None:
                track.advance()
                self.progress.say(text)

            yield done


class Study(Spec, shelf="keeptune.studies"):
    """A grid of runs and what it says."""

    def conduct(self, work: Work) -> Plain:
        """Runs what is not done yet and returns plain data, with a `text` for people and a `page` where it stands.

        Raises:
            Interrupted: a signal came (E-RUN-INTERRUPTED); finished arms are kept, and the same command goes on.
        """
        raise NotImplementedError
