"""How many cores a benchmark has; apart, for processes that do not import TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Callable


def available_cores() -> int:
    """How many cores this process may use."""
    allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
