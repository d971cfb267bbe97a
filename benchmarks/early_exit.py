"""`python -m benchmarks.early_exit`: what leaving early saves in time inside an exported SavedModel, as ratios."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import typer
from rich.console import Console
from rich.table import Table

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.cost import count_macs
from dvt_tf.exit_rule import NEVER
from dvt_tf.serving import export


def main(
    model: Annotated[str, typer.Option(help="A model folder, a preset with weights, or any preset, then untrained.")],
    batches: Annotated[list[int] | None, typer.Option("--batch", help="Images at once. [default: 1, 8, 32]")] = None,
    repeats: Annotated[int, typer.Option(help="Runs of each in turn, of which the median counts.")] = 9,
) -> None:
    """Time one SavedModel with every image leaving at exit 1, at 2, ..., one after another in every round."""
    cascade = _load(model)
    exits, size = cascade.num_exits, cascade.config.image_size
    costs = np.array(count_macs(cascade)) / count_macs(cascade)[-1]
    with tempfile.TemporaryDirectory() as folder:
        served = tf.saved_model.load(str(export(cascade, Path(folder) / "model")))
    run = served.signatures["with_thresholds"]
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    smooth = tf.cast(tf.image.resize(coarse, (size, size)), tf.uint8)  # noise takes far longer to decode than a picture
    image = tf.io.encode_jpeg(smooth).numpy()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("batch", *(f"exit {k + 1}" for k in range(exits)), "full, ms an image"):
        table.add_column(heading, justify="right")
    table.add_row("GFLOPs", *(f"{cost:.3f}" for cost in costs))
    for batch in batches or (1, 8, 32):
        seconds = _seconds(run, image, batch, exits, repeats)
        full = seconds[-1]
        table.add_row(f"{batch}", *(f"{one / full:.3f}" for one in seconds), f"{1000 * full / batch:.1f}")
    console = Console(highlight=False)
    console.print(f"{model}: cost of leaving at each exit, as a share of the full cascade's, decoding included")
    console.print(table)


def _load(model: str) -> DynamicVisionTransformer:
    try:
        return DynamicVisionTransformer.from_preset(model)
    except ValueError:  # no weights are bundled, and time does not depend on them
        return DynamicVisionTransformer.from_preset(model, load_weights=False)


def _seconds(run: Any, image: bytes, batch: int, exits: int, repeats: int) -> list[float]:
    """The median time of a batch whose images all leave at exit 1, at 2, ..."""
    files = tf.constant([image] * batch)
    taken: list[list[float]] = [[] for _ in range(exits)]
    for turn in range(repeats + 1):
        for k in range(exits):
            row = np.full((batch, exits - 1), NEVER, np.float32)
            row[:, k:] = 0.0
            thresholds = tf.constant(row)
            start = time.perf_counter()
            left = run(image_bytes=files, thresholds=thresholds)["exit"].numpy()
            if turn:  # the first is to warm up
                taken[k].append(time.perf_counter() - start)
            assert set(left.tolist()) == {k + 1}
    return [statistics.median(times) for times in taken]


if __name__ == "__main__":
    typer.run(main)
