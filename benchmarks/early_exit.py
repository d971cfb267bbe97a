"""`python -m benchmarks.early_exit`: what leaving early saves in time, served and beside the ideal, as ratios."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import typer

from benchmarks.inference import up_to_exit
from benchmarks.measure import Rounds, interleaved, load
from benchmarks.report import Out, Report
from dvt_tf.adaptive import AdaptiveClassifier
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.cost import count_macs
from dvt_tf.exit_rule import NEVER
from dvt_tf.serving import export


def main(
    model: Annotated[str, typer.Option(help="A model folder or a preset; an untrained one takes as long.")],
    batches: Annotated[list[int] | None, typer.Option("--batch", help="Images at once. [default: 1, 8, 32]")] = None,
    rounds: Annotated[int, typer.Option(help="Of which the medians count.")] = 9,
    out: Out = None,
) -> None:
    """Time one SavedModel with every image leaving at exit 1, at 2, ..., one after another in every round.

    Decoding the image is part of it. Then, without a SavedModel and decoding, `AdaptiveClassifier` beside the ideal:
    shares of the batch that leave at each exit, times what the folded form takes for the whole batch up to there.
    Ratios are medians over the rounds, with the lowest and highest.
    """
    cascade = load(model)
    exits, costs = cascade.num_exits, count_macs(cascade)
    with tempfile.TemporaryDirectory() as folder:
        served = tf.saved_model.load(str(export(cascade, Path(folder) / "model")))
    run = served.signatures["with_thresholds"]
    image = _picture(cascade.config.image_size)
    report = Report("early_exit", f"{model}: cost of leaving at each exit, served; {rounds} interleaved rounds", out)
    rows = [["GFLOPs", *(f"{cost / costs[-1]:.2f}" for cost in costs), ""]]
    for batch in batches or (1, 8, 32):
        found = interleaved({k: _leaving_at(run, image, batch, k, exits) for k in range(exits)}, rounds)
        full = found[exits - 1]
        shares = (found[k].over(full).show() for k in range(exits))
        rows.append([f"{batch}", *shares, f"{1000 * full.middle.median / batch:.1f}"])
    headings = ("batch", *(f"exit {k + 1}" for k in range(exits)), "full, ms an image")
    report.table(headings, rows, "As a share of the full cascade's")
    rows = []
    for precision in ("float32", "bfloat16"):
        for batch in batches or (1, 8, 32):
            beside = against_ideal(cascade, precision, batch, rounds)
            rows += [[precision, f"{batch}", name, *cells] for name, *cells in beside]
    report.table(("precision", "batch", "leave at exit", "ms an image", "over the ideal"), rows, "Beside the ideal")
    report.close()


def against_ideal(
    cascade: DynamicVisionTransformer, precision: str, batch: int, rounds: int
) -> list[tuple[str, str, str]]:
    """For images that all leave at one exit, and for a mix if there are several: name, ms an image, over the ideal."""
    exits, size = cascade.num_exits, cascade.config.image_size
    images = tf.random.stateless_normal((batch, size, size, 3), (1, 2))
    form, classifier = cascade.optimized(precision), AdaptiveClassifier(cascade, [0.0] * (exits - 1), precision)
    leaving = {f"{k + 1}": np.full(batch, k) for k in range(exits)}
    if batch >= exits > 1:
        leaving["a mix of all"] = np.arange(batch) * exits // batch
    runs: dict[Any, Callable[[], tf.Tensor]] = {k: up_to_exit(form, k, images) for k in range(exits)}
    specs = [tf.TensorSpec((None, size, size, 3)), tf.TensorSpec((None, exits - 1))]
    graph = tf.function(classifier.classify, specs, autograph=False)  # as it is served, and as the exits alone are
    runs |= {name: _classifying(graph, images, where, exits) for name, where in leaving.items()}
    found = interleaved(runs, rounds)
    return [
        (
            name,
            f"{1000 * found[name].middle.median / batch:.1f}",
            found[name].over(_ideal(found, np.bincount(where, minlength=exits) / batch)).show("{:.3f}"),
        )
        for name, where in leaving.items()
    ]


def _ideal(found: Mapping[Any, Rounds], shares: np.ndarray) -> Rounds:
    by_round = zip(*(found[k].seconds for k in range(len(shares))), strict=True)
    return Rounds(tuple(float(np.dot(shares, seconds)) for seconds in by_round))


def _classifying(graph: Any, images: tf.Tensor, where: np.ndarray, exits: int) -> Callable[[], tf.Tensor]:
    """A run of a classifier's graph on images that leave at the exits `where` (0-based), one each."""
    later = np.arange(exits - 1) < where[:, None]
    given = tf.constant(np.where(later, NEVER, 0.0).astype(np.float32))
    left = graph(images, given)[0]["exit"].numpy()
    if (left != where + 1).any():
        raise RuntimeError(f"images left at exits {left.tolist()} and not at {(where + 1).tolist()}")
    return lambda: graph(images, given)[0]["exit"]


def _picture(size: int) -> bytes:
    """A JPEG file; smooth, as noise takes far longer to decode than a picture."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return tf.io.encode_jpeg(tf.cast(tf.image.resize(coarse, (size, size)), tf.uint8)).numpy()


def _leaving_at(run: Any, image: bytes, batch: int, k: int, exits: int) -> Callable[[], tf.Tensor]:
    """A run of a signature on a batch whose images all leave at exit `k` (0-based)."""
    files = tf.constant([image] * batch)
    thresholds = np.full((batch, exits - 1), NEVER, np.float32)
    thresholds[:, k:] = 0.0
    given = tf.constant(thresholds)
    left = set(run(image_bytes=files, thresholds=given)["exit"].numpy().tolist())
    if left != {k + 1}:
        raise RuntimeError(f"images left at exits {sorted(left)} and not all at {k + 1}")
    return lambda: run(image_bytes=files, thresholds=given)["exit"]


if __name__ == "__main__":
    typer.run(main)
