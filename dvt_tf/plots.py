"""Plots of an evaluation: accuracy against mean cost, confidences and their reliability, who leaves where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dvt_tf.evaluation import CurvePoint, summary
from dvt_tf.files import written_whole
from dvt_tf.reliability import reliability, scaled_confidences
from dvt_tf.results import ExitResults

COST_LABEL = "mean cost of an image, GFLOPs (multiply-adds, as the paper counts)"
_EXIT_COLOURS = ("#1b7f5c", "#c9660a", "#5b53b0", "#b0306a", "#4d7f17", "#8a6d12")
_METHODS = {"exact": ("-", "#1f4e9c"), "evolutionary": ("--", "#c0392b"), "published": (":", "#555555")}
_LABELS = {"exact": "best thresholds", "evolutionary": "evolutionary search (paper)", "published": "published rule"}


def exit_colour(k: int) -> str:
    """The colour of an exit, 0-based; further exits begin again."""
    return _EXIT_COLOURS[k % len(_EXIT_COLOURS)]


def plot_curves(
    path: Path,
    curves: Sequence[CurvePoint],
    results: ExitResults,
    card: Mapping[str, Any],
    beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Accuracy against mean cost as PNG: each method's curve, each exit alone, the card's thresholds, other models.

    Args:
        beside: summaries of other models on the same data, by the name to show.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for method, (style, colour) in _METHODS.items():
        points = [point for point in curves if point.method == method]
        if not points:
            continue
        cost = [point.scored.gmacs for point in points]
        axes.plot(cost, [100 * p.scored.accuracy for p in points], style, color=colour, label=_LABELS[method])
        if method == "exact":
            low, high = [100 * p.low for p in points], [100 * p.high for p in points]
            axes.fill_between(cost, low, high, color=colour, alpha=0.12, linewidth=0, label="95 % bootstrap interval")
    for k, (cost, top1) in enumerate(zip(results.gmacs, results.top1(), strict=True)):
        label = "one exit for all images" if k == 0 else None
        axes.plot([cost], [100 * top1], "s", color=exit_colour(k), markersize=7, label=label)
        below = (0, -14)
        axes.annotate(f"exit {k + 1}", (cost, 100 * top1), below, textcoords="offset points", fontsize=8, ha="center")
    for name, marker in zip(beside or {}, "^vD<>Ph*", strict=False):
        exits = (beside or {})[name]["exits"]
        costs, top1s = [at["gmacs"] for at in exits], [100 * at["top1"] for at in exits]
        axes.plot(costs, top1s, marker, linestyle="", color="black", markersize=7, label=name)
    own = summary(results, card)["adaptive"]
    axes.plot(
        [own["gmacs"]], [100 * own["top1"]], "*", markersize=14, color="#e0a800", markeredgecolor="black",
        label="the model's own thresholds",
    )  # fmt: skip
    axes.set_xlabel(COST_LABEL)
    axes.set_ylabel("top-1, %")
    axes.set_title(f"{card.get('name') or 'cascade'} on {results.where}, {len(results):,} images")
    axes.margins(x=0.06, y=0.08)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    save(figure, path)


def plot_confidences(path: Path, results: ExitResults, temperatures: Sequence[float] | None = None) -> None:
    """For every exit, as PNG: a histogram of confidences, right and wrong, and accuracy against confidence."""
    from matplotlib.figure import Figure

    exits = results.num_exits
    figure = Figure(figsize=(3.2 * exits + 0.6, 5.6), layout="constrained")
    panels = figure.subplots(2, exits, squeeze=False, sharex=True, sharey="row")
    for k in range(exits):
        found = reliability(results.confidences[:, k], results.correct[:, k])
        middles, width = (found.edges[1:] + found.edges[:-1]) / 2, found.edges[1]
        wrong = found.counts - found.right
        above, below = panels[0, k], panels[1, k]
        above.bar(middles, found.right, width, color=exit_colour(k), edgecolor="white", label="right")
        above.bar(middles, wrong, width, found.right, color="#bbbbbb", hatch="//", edgecolor="white", label="wrong")
        above.set_title(f"exit {k + 1}")
        above.legend(fontsize=8, loc="upper left")
        below.plot([0, 1], [0, 1], color="#999999", linewidth=1)
        _reliability_line(below, found, "o-", exit_colour(k), "as it is")
        if temperatures is not None:
            scaled = reliability(scaled_confidences(results, k + 1, temperatures[k]), results.correct[:, k])
            _reliability_line(below, scaled, "x--", "black", f"temperature {temperatures[k]:.2f}")
        below.set_xlabel("confidence")
        below.legend(fontsize=8, loc="upper left")
        below.set(xlim=(0, 1), ylim=(0, 1))
        below.grid(alpha=0.3)
    panels[0, 0].set_ylabel("images")
    panels[1, 0].set_ylabel("share of them right")
    figure.suptitle(f"Confidences on {results.where}, {len(results):,} images")
    save(figure, path)


def _reliability_line(axes: Any, found: Any, style: str, colour: str, name: str) -> None:
    seen = found.counts > 0
    shares = found.right[seen] / found.counts[seen]
    label = f"{name}: ECE {100 * found.error:.1f} %"
    axes.plot(found.confidence[seen], shares, style, color=colour, markersize=4, linewidth=1.2, label=label)


def plot_shares(path: Path, curves: Sequence[CurvePoint], method: str = "exact") -> None:
    """As PNG: which share of the images leaves at each exit, against the mean cost."""
    from matplotlib.figure import Figure

    points = [point for point in curves if point.method == method]
    cost = [point.scored.gmacs for point in points]
    shares = 100 * np.array([point.scored.shares for point in points]).T  # (K, P)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    names = [f"exit {k + 1}" for k in range(len(shares))]
    axes.stackplot(cost, shares, colors=[exit_colour(k) for k in range(len(shares))], labels=names, alpha=0.85)
    axes.set(xlim=(min(cost), max(cost)), ylim=(0, 100), xlabel=COST_LABEL, ylabel="images that leave, %")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
