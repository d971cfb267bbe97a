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
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from dvt_tf import datasets
    from dvt_tf.results import exit_results

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,.0f} images"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(split, total=None)
        return exit_results(
            cascade,
            datasets.load(spec, split, cascade.card, batch_size=console.BATCH),
            on_batch=lambda count: progress.advance(task, count),
            data=datasets.without_split(spec),
            split=split,
            labelled=datasets.is_labelled(spec),
            sources=datasets.sources(spec, split),
        )
