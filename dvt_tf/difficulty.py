"""Which images leave where: the size and clutter of embedded scenes against the exit, as numbers and as pictures.

As the paper's figure of easy and hard images (Wang et al., 2021), with what makes them so known for once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dvt_tf.datasets import EMBEDDED
from dvt_tf.exit_rule import route
from dvt_tf.plots import exit_colour, save
from dvt_tf.results import ExitResults
from dvt_tf.scenes import MAX_SIZE, MIN_SIZE, Scenes

EXAMPLES = 12  # of each exit
_SIZES = 8  # of bins, even on a log scale
_SEED = 0  # of which examples are shown


def scenes_of(results: ExitResults) -> Scenes | None:
    """The scenes that results are of; None where they are of no embedded data."""
    name, split = results.about.get("data", "").partition("@")[0], results.about.get("split", "")
    if name not in EMBEDDED or not split:
        return None
    return EMBEDDED[name].split_scenes(split, len(results))


def by_exit(results: ExitResults, thresholds: Any, scenes: Scenes) -> list[dict[str, float]]:
    """Of the images that leave at each exit: their share, the share answered right, and what they are like.

    Args:
        thresholds: (K - 1,).

    Returns:
        For every exit `share`, and unless no image leaves there `top1`, `median_size` (pixels) and `mean_clutter`.
    """
    exits = route(results.confidences, thresholds)
    found: list[dict[str, float]] = []
    for k in range(results.num_exits):
        here = exits == k + 1
        entry = {"share": float(here.mean())}
        if here.any():
            entry["top1"] = float(results.correct[here, k].mean())
            entry["median_size"] = float(np.median(scenes.object_size[here]))
            entry["mean_clutter"] = float(scenes.clutter[here].mean())
        found.append(entry)
    return found


def rank_correlations(exits: np.ndarray, scenes: Scenes) -> dict[str, float]:
    """Spearman's rank correlation of the exit (N,) with size and with clutter; 0 where all leave at one."""
    from scipy.stats import spearmanr

    if len(np.unique(exits)) < 2:
        return {"size": 0.0, "clutter": 0.0}
    return {
        "size": float(spearmanr(exits, scenes.object_size).statistic),
        "clutter": float(spearmanr(exits, scenes.clutter).statistic),
    }


def summary(results: ExitResults, card: Mapping[str, Any]) -> dict[str, Any] | None:
    """`by_exit` and `rank_correlations` by a card's thresholds, as plain JSON values; None for other data."""
    scenes = scenes_of(results)
    if scenes is None:
        return None
    thresholds = card["thresholds"]["values"]
    exits = route(results.confidences, thresholds)
    return {
        "exits": by_exit(results, thresholds, scenes),
        "rank_correlation_with_exit": rank_correlations(exits, scenes),
    }


def plot_difficulty(path: Path, results: ExitResults, thresholds: Any, scenes: Scenes) -> None:
    """As PNG: the share that leaves at each exit by size and by clutter, and the share that is right by size."""
    from matplotlib.figure import Figure

    exits = route(results.confidences, thresholds)
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    by_size, by_clutter, right = figure.subplots(1, 3)
    edges = np.geomspace(MIN_SIZE, MAX_SIZE, _SIZES + 1)
    bin_of = np.clip(np.searchsorted(edges, scenes.object_size, "right") - 1, 0, _SIZES - 1)
    levels, level_of = np.unique(scenes.clutter, return_inverse=True)
    middles = np.sqrt(edges[1:] * edges[:-1])
    for axes, number, places in ((by_size, bin_of, middles), (by_clutter, level_of, levels)):
        shares = np.stack([np.bincount(number, exits == k + 1, len(places)) for k in range(results.num_exits)])
        shares = 100 * shares / np.maximum(np.bincount(number, minlength=len(places)), 1)
        colours = [exit_colour(k) for k in range(results.num_exits)]
        names = [f"exit {k + 1}" for k in range(results.num_exits)]
        axes.stackplot(places, shares, colors=colours, labels=names, alpha=0.85)
        axes.set(ylim=(0, 100), ylabel="leave, %")
    by_size.set(xscale="log", xlabel="size of the object, pixels", title="by size")
    by_clutter.set(xlabel="clutter, share of the most there can be", title="by clutter")
    by_clutter.legend(fontsize=8, loc="upper right")
    for k in range(results.num_exits):
        shares = np.bincount(bin_of, results.correct[:, k], _SIZES) / np.maximum(
            np.bincount(bin_of, minlength=_SIZES), 1
        )
        right.plot(middles, 100 * shares, "o-", color=exit_colour(k), markersize=4, label=f"exit {k + 1} alone")
    right.set(xscale="log", xlabel="size of the object, pixels", ylabel="top-1, %", title="all images, at each exit")
    right.grid(alpha=0.3)
    right.legend(fontsize=8, loc="lower right")
    for axes in (by_size, right):
        axes.set_xticks([20, 40, 60, 80, 100], ["20", "40", "60", "80", "100"])
        axes.minorticks_off()
    for axes, places in ((by_size, middles), (by_clutter, levels)):
        axes.set_xlim(places[0], max(places[-1], places[0] + 1e-3))  # of few images there may be one level of clutter
    figure.suptitle(f"{results.where}, {len(results):,} images, by the model's thresholds", fontsize=10)
    save(figure, path)


def plot_examples(path: Path, results: ExitResults, thresholds: Any, scenes: Scenes, names: tuple[str, ...]) -> None:
    """As PNG: images drawn by lot from those that leave at each exit, with the answer, red where it is wrong."""
    from matplotlib.figure import Figure

    exits, random = route(results.confidences, thresholds), np.random.default_rng(_SEED)
    figure = Figure(figsize=(0.95 * EXAMPLES, 1.3 * results.num_exits), layout="constrained")
    panels = figure.subplots(results.num_exits, EXAMPLES, squeeze=False)
    for k, row in enumerate(panels):
        here = np.flatnonzero(exits == k + 1)
        chosen = random.choice(here, min(EXAMPLES, len(here)), replace=False)
        for axes in row:
            axes.set_axis_off()
        for axes, image in zip(row, chosen, strict=False):
            axes.imshow(scenes.images[image])
            colour = "#1b7f5c" if results.correct[image, k] else "#c0392b"
            axes.set_title(names[results.predictions[image, k]], fontsize=7, color=colour, pad=2)
        row[0].text(-0.12, 0.5, f"exit {k + 1}", transform=row[0].transAxes, rotation=90, va="center", ha="right")
    save(figure, path)
