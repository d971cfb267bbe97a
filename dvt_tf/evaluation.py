"""Per-exit results of a cascade on a data set, the budgeted curve made from them, and its plot."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.cost import count_macs
from dvt_tf.files import written_whole
from dvt_tf.thresholds import Operating, operate, published_thresholds


class ExitResults(NamedTuple):
    """What every exit said of every image.

    confidences: (N, K) float32. predictions: (N, K) int32. in_top5: (N, K) bool. labels: (N,) int32.
    gmacs: (K,) float64, cumulative cost in 10^9 multiply-accumulates.
    """

    confidences: np.ndarray
    predictions: np.ndarray
    in_top5: np.ndarray
    labels: np.ndarray
    gmacs: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(N, K) bool."""
        return self.predictions == self.labels[:, None]

    def top1(self) -> list[float]:
        """Share of right answers at each exit."""
        return [float(share) for share in self.correct.mean(0)]

    def top5(self) -> list[float]:
        """Share of images whose label is among the five likeliest classes, at each exit."""
        return [float(share) for share in self.in_top5.mean(0)]


def exit_results(
    model: DynamicVisionTransformer,
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    on_batch: Callable[[int], None] | None = None,
) -> ExitResults:
    """Runs the full cascade once over (images (B, S, S, 3) normalised, labels (B,)).

    Args:
        on_batch: called with the number of images after each batch, for a progress bar.

    Raises:
        ValueError: there is not one image, or a label that the model has no class for.
    """
    classes = model.config.num_classes

    @tf.function(reduce_retracing=True)
    def run(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        logits = tf.stack(list(model(images, training=False).values()), 1)  # (B, K, C)
        own = tf.gather(logits, labels, axis=2, batch_dims=1)  # (B, K)
        rank = tf.reduce_sum(tf.cast(logits > own[..., None], tf.int32), -1)
        confidences = tf.reduce_max(tf.nn.softmax(logits), -1)
        return confidences, tf.argmax(logits, -1, output_type=tf.int32), rank < 5

    parts = []
    for images, labels in batches:
        labels = tf.cast(labels, tf.int32)
        if tf.reduce_any((labels < 0) | (labels >= classes)):
            raise ValueError(f"the data has labels outside 0..{classes - 1}, the classes of this model")
        parts.append((*(part.numpy() for part in run(images, labels)), labels.numpy()))
        if on_batch is not None:
            on_batch(len(parts[-1][-1]))
    if not parts:
        raise ValueError("the data has no image to evaluate")
    confidences, predictions, in_top5, all_labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ExitResults(confidences, predictions, in_top5, all_labels, np.asarray(count_macs(model)) / 1e9)


def summary(results: ExitResults, card: dict[str, Any]) -> dict[str, Any]:
    """What the results say, as plain JSON values: every exit alone, and leaving early by the card's thresholds."""
    values = np.asarray(card["thresholds"]["values"], np.float32)
    own = operate(results.confidences, results.correct, results.gmacs, values)
    exits = zip(results.gmacs, results.top1(), results.top5(), strict=True)
    return {
        "images": len(results.labels),
        "exits": [{"gmacs": float(gmacs), "top1": top1, "top5": top5} for gmacs, top1, top5 in exits],
        "adaptive": {
            "thresholds": [float(value) for value in values],
            "top1": own.accuracy,
            "gmacs": own.gmacs,
            "share_of_full_cost": own.gmacs / float(results.gmacs[-1]),
            "exit_shares": [float(share) for share in own.shares],
        },
    }


def budgeted_curve(chosen_on: ExitResults, scored_on: ExitResults) -> list[Operating]:
    """Accuracy against mean cost: thresholds of the published rule from one set of images, applied to another."""
    settings = published_thresholds(chosen_on.confidences)
    return [operate(scored_on.confidences, scored_on.correct, scored_on.gmacs, values) for values in settings]


def write_curve(path: Path, curve: list[Operating]) -> None:
    """The curve as CSV, one row per setting, cheapest first; written whole or not at all."""
    exits = len(curve[0].shares)
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [f"threshold_{k + 1}" for k in range(exits - 1)] + [f"share_exit_{k + 1}" for k in range(exits)]
        writer.writerow(["gmacs", "top1", *names])
        for point in sorted(curve, key=lambda point: point.gmacs):
            values = [point.gmacs, point.accuracy, *point.thresholds, *point.shares]
            writer.writerow([f"{value:.6g}" for value in values])


def write_summary(path: Path, values: dict[str, Any]) -> None:
    """A summary as JSON, written whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def plot_curve(path: Path, curve: list[Operating], results: ExitResults, card: dict[str, Any]) -> None:
    """The curve as PNG, with each exit alone and the card's own thresholds as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    points = sorted(curve, key=lambda point: point.gmacs)
    axes.plot(
        [p.gmacs for p in points], [100 * p.accuracy for p in points], "-", color="tab:blue", label="leaving early"
    )
    axes.plot(results.gmacs, [100 * share for share in results.top1()], "s", color="tab:gray", label="one exit for all")
    own = operate(results.confidences, results.correct, results.gmacs, np.asarray(card["thresholds"]["values"]))
    axes.plot([own.gmacs], [100 * own.accuracy], "*", markersize=14, color="tab:red", label="the card's thresholds")
    axes.set_xlabel("mean cost of an image, GFLOPs (multiply-adds, as the paper counts)")
    axes.set_ylabel("top-1, %")
    axes.set_title(f"{card.get('name') or 'cascade'}, {len(results.labels):,} images")
    axes.grid(alpha=0.3)
    axes.legend()
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
