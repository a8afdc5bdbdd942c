"""The public implementations of k-center greedy, as they are, from checkouts of their repositories.

    git clone https://github.com/google/active-learning      # efedd8f, Apache-2.0
    git clone https://github.com/PatrickZH/DeepCore          # 74ec709, MIT

Both begin with a point that is told. DeepCore's module imports its trainers and networks, which its function does not
use; empty ones stand in for them. active-learning's needs scikit-learn.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Choose = Callable[[Floats, int, int], set[int]]
FILES = {"active-learning": "sampling_methods/kcenter_greedy.py", "DeepCore": "deepcore/methods/kcentergreedy.py"}


def public(checkouts: Path) -> dict[str, Choose]:
    """By name, a function of points, first choice and count that gives the chosen places."""
    makers = {"active-learning": _active_learning, "DeepCore": _deepcore}
    return {name: makers[name](checkouts / name) for name in FILES}


def _active_learning(root: Path) -> Choose:
    sys.path.insert(0, str(root))
    module = _module("sampling_methods.kcenter_greedy", root / FILES["active-learning"])
    module.max = np.max  # of its last line, which prints an array as a number; numpy allows that no more
    method = module.kCenterGreedy

    def choose(points: Floats, first: int, count: int) -> set[int]:
        with contextlib.redirect_stdout(io.StringIO()):
            return {first, *map(int, method(points, None, 0).select_batch_(None, [first], count - 1))}

    return choose


def _deepcore(root: Path) -> Choose:
    methods = root / "deepcore" / "methods"
    distance = _module("euclidean", methods / "methods_utils" / "euclidean.py").euclidean_dist
    for name, parts in {
        "deepcore": {}, "deepcore.methods": {}, "deepcore.nets": {},
        "deepcore.methods.earlytrain": {"EarlyTrain": object},
        "deepcore.methods.methods_utils": {"euclidean_dist": distance},
        "deepcore.nets.nets_utils": {"MyDataParallel": object},
    }.items():  # fmt: skip
        sys.modules[name] = _empty(name, parts)
    vars(np).setdefault("in1d", np.isin)  # its old name, which numpy has dropped
    greedy = _module("deepcore.methods.kcentergreedy", root / FILES["DeepCore"]).k_center_greedy

    def choose(points: Floats, first: int, count: int) -> set[int]:
        given = torch.from_numpy(points)
        with contextlib.redirect_stdout(io.StringIO()):
            chosen = greedy(given, count - 1, distance, "cpu", already_selected=[first])
        return set(map(int, chosen))

    return choose


def _empty(name: str, parts: Mapping[str, Any]) -> ModuleType:
    made = ModuleType(name)
    made.__path__ = []
    vars(made).update(parts)
    return made


def _module(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "the file is there"
    assert spec.loader is not None, "it is a Python file"
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
