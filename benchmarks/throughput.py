"""`python -m benchmarks.throughput`: accuracy against measured images a second, as in Figure 13 of the paper."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import typer

from benchmarks.inference import exit_graph
from benchmarks.measure import Middle, interleaved, machine
from benchmarks.report import Out, Report
from dvt_tf import datasets
from dvt_tf.adaptive import AdaptiveClassifier
from dvt_tf.cascade import DynamicVisionTransformer
from dvt_tf.evaluation import budgets_between
from dvt_tf.files import written_whole
from dvt_tf.results import exit_results
from dvt_tf.thresholds import choose, operate

BATCH = 128  # images, as in the paper
POINTS = 10  # of the budget curve


class Point(NamedTuple):
    """A way to classify: its share of right answers on the test split, 10^9 multiply-accumulates, images a second."""

    name: str
    top1: float
    gmacs: float
    rate: Middle


def main(
    model: Annotated[str, typer.Option(help="A model folder, or a preset with bundled weights.")] = "dvt_tiny_digits",
    data: Annotated[str, typer.Option(metavar="SPEC", help="With a calibration and a test split.")] = "digits",
    static: Annotated[
        list[Path] | None,
        typer.Option(help="A card of a static baseline on this data, with its figures: `*_card.json`."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at once.")] = BATCH,
    images: Annotated[int, typer.Option(help="Of the test split, classified in every round.")] = 1024,
    limit: Annotated[int, typer.Option(help="At most so many to choose on and to score on; 0 for all.")] = 0,
    rounds: Annotated[int, typer.Option(help="Of which the medians count.")] = 5,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    out: Out = None,
) -> None:
    """Classify the same test images at every budget of the curve and by static baselines, in the same rounds.

    The thresholds of each budget are the best on the calibration split; they and the accuracy, on the whole test split,
    are of the layers in float32. A baseline's accuracy is that of its card; its time is that of fresh weights of its
    configuration, on which time does not depend.
    """
    cascade = DynamicVisionTransformer.from_preset(model)
    chosen_on, scored = (
        exit_results(cascade, datasets.load(data, split, cascade.card, batch, limit=limit), data=data, split=split)
        for split in ("calibration", "test")
    )
    found = choose(
        chosen_on.confidences, chosen_on.correct, chosen_on.gmacs, budgets_between(chosen_on.gmacs, POINTS).tolist()
    )
    batches = [part for part, _ in datasets.load(data, "test", cascade.card, batch, limit=images)]
    classifier = AdaptiveClassifier(cascade, precision=precision)
    runs: dict[Any, Callable[[], Any]] = {}
    names: list[tuple[str, float, float]] = []
    for number, setting in enumerate(found):
        on_test = operate(scored.confidences, scored.correct, scored.gmacs, setting.thresholds)
        names.append((f"budget {number + 1}", on_test.accuracy, on_test.gmacs))
        runs[len(runs)] = _all(functools.partial(_exits, classifier, setting.thresholds), batches)
    for path in static or ():
        card = json.loads(path.read_text(encoding="utf-8"))
        figures = card["figures"]["exits"][-1]
        alone = DynamicVisionTransformer(card["config"])
        names.append((path.stem.removesuffix("_card"), figures["top1"], figures["gmacs"]))
        runs[len(runs)] = _all(exit_graph(alone.optimized(precision), alone.num_exits - 1), batches)
    rounds_of = interleaved(runs, rounds)
    count = sum(len(part) for part in batches)
    points = [Point(*name, rounds_of[key].rate(count)) for key, name in enumerate(names)]
    title = f"{model} on {data}@test, timed in {precision} in batches of {batch}; {rounds} interleaved rounds"
    report = Report("throughput", title, out)
    full = points[len(found) - 1]
    rows = [
        [
            point.name,
            f"{100 * point.top1:.1f}",
            f"{point.gmacs:.3f}",
            point.rate.show("{:.0f}"),
            rounds_of[len(found) - 1].over(rounds_of[key]).show(),
        ]
        for key, point in enumerate(points)
    ]
    report.table(("", "top-1, %", "GFLOPs", "images a second", f"over {full.name}"), rows)
    report.close()
    if out is not None:
        _plot(out / "throughput.png", points[: len(found)], points[len(found) :], title)


def _exits(classifier: AdaptiveClassifier, thresholds: np.ndarray, images: tf.Tensor) -> tf.Tensor:
    return classifier(images, thresholds)["exit"]


def _all(run: Callable[[tf.Tensor], tf.Tensor], batches: Sequence[tf.Tensor]) -> Callable[[], None]:
    def every() -> None:
        for part in batches:
            run(part).numpy()

    return every


def _plot(path: Path, curve: Sequence[Point], static: Sequence[Point], title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    rates = np.array([point.rate for point in curve])  # (points, 3): median, lowest, highest
    axes.plot(rates[:, 0], [100 * point.top1 for point in curve], "o-", color="#1f4e9c", label="the cascade")
    for point, marker in zip(static, "^vD<>Ph*", strict=False):
        axes.plot([point.rate.median], [100 * point.top1], marker, color="black", label=point.name)
    for point in (*curve, *static):
        axes.plot(point.rate[1:], [100 * point.top1] * 2, "-", color="#999999", linewidth=1, zorder=0)
    axes.set(xlabel="images a second; lines: lowest and highest round", ylabel="top-1, %", xscale="log")
    axes.set_title(f"{title}\n{machine()}", fontsize=8)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


if __name__ == "__main__":
    typer.run(main)
