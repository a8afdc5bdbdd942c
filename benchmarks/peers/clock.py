"""The clock of a device: a GPU's events, which stand behind all work that it was given, or processor time.

A step on a GPU has ended when its last kernel has, not when Python has asked for it. So a span begins and ends with the
device at rest, and what lies between two events is its time; the wall clock of the same span stands beside it.
"""

from __future__ import annotations

import time

import torch

from benchmarks.peers.pipe import forget_peak, memory


class Events:
    """Of the GPU that models go to."""

    def start(self) -> None:
        """A span begins; nothing is left to do from before."""
        torch.cuda.synchronize()
        self._begin = torch.cuda.Event(enable_timing=True)
        self._begin.record()
        self._wall = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """The span's seconds, by events and by the wall clock."""
        end = torch.cuda.Event(enable_timing=True)
        end.record()
        torch.cuda.synchronize()
        wall = time.perf_counter() - self._wall
        return {"seconds": self._begin.elapsed_time(end) / 1000, "wall_seconds": wall}

    def memory(self) -> dict[str, int]:
        """Bytes of tensors: now, and at the highest since the start or since `forget_peak`."""
        return {"held": torch.cuda.memory_allocated(), "highest": torch.cuda.max_memory_allocated()}

    def forget_peak(self) -> None:
        """The highest count starts from now."""
        torch.cuda.reset_peak_memory_stats()

    def rest(self) -> None:
        """Cached blocks go back: others on the same GPU need them while this process waits."""
        torch.cuda.empty_cache()


class ProcessorTime:
    """Of a rehearsal without a GPU; memory is that of the process."""

    def start(self) -> None:
        """A span begins."""
        self._begin, self._wall = time.process_time(), time.perf_counter()

    def stop(self) -> dict[str, float]:
        """The span's seconds, of the processor and by the wall clock."""
        return {"seconds": time.process_time() - self._begin, "wall_seconds": time.perf_counter() - self._wall}

    def memory(self) -> dict[str, int]:
        """Resident bytes: now, and at the highest since the start or since `forget_peak`."""
        found = memory()
        return {"held": found["resident"], "highest": found["peak"]}

    def forget_peak(self) -> None:
        """The highest count starts from now."""
        forget_peak()

    def rest(self) -> None:
        """Nothing is cached."""


def clock_of(device: str) -> Events | ProcessorTime:
    """Of `cuda` or `cpu`."""
    return Events() if device == "cuda" else ProcessorTime()
