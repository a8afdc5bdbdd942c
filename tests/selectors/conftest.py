"""The embedded model in float32, and a few conversations."""

from __future__ import annotations

import numpy as np
import pytest

from keeptune.core.example import Example, Message
from keeptune.models.load import load


@pytest.fixture(scope="session")
def pocket():
    return load("pocket", dtype="float32", device="cpu")


def conversation(name: str, request: str, answer: str, source: str = "task") -> Example:
    return Example(name, (Message("user", request), Message("assistant", answer)), source=source)


@pytest.fixture(scope="session")
def talks() -> list[Example]:
    return [
        conversation("a", "What is two plus two?", "Four."),
        conversation("b", "Name the colour of the sky on a clear day, please.", "It is blue."),
        conversation("c", "Say hello.", "Hello there, how are you doing on this fine day?"),
        conversation("d", "Which animal barks?", "The dog barks at night and sleeps by day."),
        conversation("e", "Count to three.", "One, two, three."),
    ]


def directions(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around five directions."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(5, width)) * 2
    found = centres[generator.integers(5, size=count)] + generator.normal(size=(count, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
