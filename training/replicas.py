"""Into how many replicas the cores of this process and a batch can be divided."""

from __future__ import annotations


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
