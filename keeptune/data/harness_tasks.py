"""Tasks of lm-evaluation-harness named in a suite file: by the harness's own name, or a YAML file of the user's.

A local file is read as plain YAML. What would run code of the file (`!function`, any other tag) or hide its content
elsewhere (`include`) is refused; a task that needs it can be installed with the harness and named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from keeptune.core.digest import digest_of, file_digest
from keeptune.core.errors import RecipeError
from keeptune.data.suite import HarnessTask

MOST_BYTES = 1_000_000


def harness_task(name: str, file: str, folder: Path, metric: str, most: int | None) -> HarnessTask:
    """The task that a suite file means.

    Args:
        name: as the certificate shows it.
        file: a path that ends in .yaml or .yml, relative to `folder`; anything else is the harness's name of a task.
        folder: of the suite file.
        metric: one of the task's metrics; its first when empty.
        most: items of each of its parts.

    Raises:
        RecipeError: the file is missing, is no task, or wants to run code (E-SUITE-HARNESS).
    """
    if not file.endswith((".yaml", ".yml")):
        return HarnessTask(name, file, metric, most)
    path = folder / file
    config = _read(path)
    files = sorted(set(_local_files(config.get("dataset_kwargs", {}).get("data_files"), path.parent)))
    kwargs = config.get("dataset_kwargs")
    if isinstance(kwargs, dict) and "data_files" in kwargs:
        config["dataset_kwargs"] = {**kwargs, "data_files": _resolved(kwargs["data_files"], path.parent)}
    digest = digest_of([[found.name, file_digest(found)] for found in files])
    return HarnessTask(name, json.dumps(config, sort_keys=True), metric, most, digest)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > MOST_BYTES:
            raise _refused(path, "the task file is larger than a megabyte.")
        config = yaml.safe_load(text)
    except OSError:
        raise _refused(path, "there is no such task file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = str(error).splitlines()[0]
        if "tag" in what:
            raise _refused(path, "the task file names code to run (`!function`), and a data file runs none.") from None
        raise _refused(path, f"this is not YAML: {what}") from None
    if not isinstance(config, dict) or not isinstance(config.get("task"), str):
        raise _refused(path, "a task file is a mapping with `task`, its name.")
    if "include" in config:
        raise _refused(path, "the task file includes another one; write it whole.")
    if not isinstance(config.get("dataset_kwargs", {}), dict):
        raise _refused(path, "`dataset_kwargs` is a mapping.")
    return config


def _refused(path: Path, what: str) -> RecipeError:
    return RecipeError(
        what, code="E-SUITE-HARNESS", where={"file": str(path)},
        fix="See docs/evaluation.md; a task with code can be named instead, once it is installed with the harness.",
    )  # fmt: skip


def _resolved(files: Any, folder: Path) -> Any:
    """Local files of the data set, relative to the task file where they stand beside it."""
    if isinstance(files, dict):
        return {key: _resolved(value, folder) for key, value in files.items()}
    if isinstance(files, list):
        return [_resolved(value, folder) for value in files]
    path = folder / str(files)
    return str(path.absolute()) if path.is_file() else files


def _local_files(files: Any, folder: Path) -> Iterator[Path]:
    if isinstance(files, (dict, list)):
        for value in files.values() if isinstance(files, dict) else files:
            yield from _local_files(value, folder)
    elif files is not None and (folder / str(files)).is_file():
        yield folder / str(files)
