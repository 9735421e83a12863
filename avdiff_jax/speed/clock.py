"""Seconds of calls, compilations, peak memory."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Self

import jax


def timed(run: Callable) -> float:
    """Seconds of one call, results included."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


class Compilations:
    """Counts the programs that XLA compiles or loads from the cache inside a `with`, and the
    seconds that takes."""

    def __enter__(self) -> Self:
        """Starts to listen."""
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *_):
        """Stops."""
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            self.count, self.seconds = self.count + 1, self.seconds + duration_secs


def host_peak_mb() -> float:
    """Most memory that this process has held so far."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def device_peak_mb() -> float | None:
    """The same of the first device; None where it does not tell."""
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return peak and peak / (1 << 20)
