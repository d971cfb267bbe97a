"""Into how many replicas the cores of this process and a batch can be divided."""

from __future__ import annotations

import os
from collections.abc import Callable


def available_cores() -> int:
    """How many cores this process may use."""
    allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def refuse_more_replicas(count: int, cores: int) -> None:
    """Raises ValueError where so many parts of the processor have no core each."""
    if not 1 <= count <= cores:
        raise ValueError(f"--cpu-replicas is {count}; it must be from 1 to {cores}, as many as cores")


def refuse_uneven(batch_size: int, replicas: int) -> None:
    """Raises ValueError where a batch cannot be split evenly."""
    if batch_size % replicas:
        raise ValueError(
            f"batch_size {batch_size} does not divide among {replicas} replicas; "
            f"{batch_size // replicas * replicas or replicas} would"
        )
