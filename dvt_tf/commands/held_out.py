"""Every exit on one split of data, with a progress bar, for the commands that work from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvt_tf.commands import console

if TYPE_CHECKING:
    from dvt_tf.cascade import DynamicVisionTransformer
    from dvt_tf.datasets import DataSpec
    from dvt_tf.results import ExitResults

CALIBRATION = "calibration"


def run_exits(cascade: DynamicVisionTransformer, spec: DataSpec, split: str) -> ExitResults:
    """Runs the full cascade once over a split."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from dvt_tf import datasets
    from dvt_tf.results import exit_results

    batches = datasets.load(spec, split, cascade.card, batch_size=console.BATCH)
    count = int(batches.cardinality())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        # Only the number of batches is known beforehand, and not even that of shards.
        task = progress.add_task(f"{split}, batches of {console.BATCH}", total=count if count >= 0 else None)
        return exit_results(
            cascade,
            batches,
            on_batch=lambda _: progress.advance(task),
            data=datasets.without_split(spec),
            split=split,
            labelled=datasets.is_labelled(spec),
            sources=datasets.sources(spec, split),
        )
