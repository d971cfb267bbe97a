"""The plots of a study, from what is kept: rows side by side, how they learned, and accuracy against mean cost."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from dvt_tf.files import written_whole
from dvt_tf.plots import COST_LABEL
from training.cells import HISTORIES, Cell, Found, seeds_of
from training.paired import seeds_in_words
from training.studies import CONFIGURATIONS, Study
from training.study_curves import Curves, mean_and_band

_POINTS = 100  # of a drawn line
_COLOURS = ("#1f4e9c", "#c9660a", "#1b7f5c", "#b0306a", "#5b53b0")


def plot_budgets(path: Path, rows: Sequence[str], found: Found, curves: Curves, data: str) -> None:
    """Budgeted curves as PNG, the mean over seeds at each cost and a band of all of them, beside single Transformers.

    A line ends at the dearest cost that one of its seeds comes to.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for number, row in enumerate(rows):
        cells = [Cell(row, seed) for seed in seeds_of(found, row)]
        colour = _COLOURS[number % len(_COLOURS)]
        says = f"{CONFIGURATIONS[row].says} ({seeds_in_words(len(cells))})"
        if CONFIGURATIONS[row].alone is not None:
            shares = 100 * np.array([found[cell].top1()[0] for cell in cells])
            spread = [[shares.mean() - shares.min()], [shares.max() - shares.mean()]]
            cost = found[cells[0]].gmacs
            axes.errorbar(cost, [shares.mean()], spread, fmt="s", color=colour, capsize=4, label=says, zorder=3)
            continue
        own = [curves[cell] for cell in cells]
        costs = np.linspace(own[0].gmacs[0], max(curve.gmacs[-1] for curve in own), _POINTS)
        mean, least, most = mean_and_band(own, costs)
        axes.plot(costs, 100 * mean, "-", color=colour, label=f"cascade, {says}")
        axes.fill_between(costs, 100 * least, 100 * most, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=COST_LABEL, ylabel="top-1, %")
    axes.set_title(f"{data}@test, thresholds from the calibration split; bands and bars: all seeds", fontsize=9)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def plot_rows(path: Path, study: Study, rows: Sequence[str], found: Found, data: str) -> None:
    """The last exit of every row as PNG: each seed, joined from row to row, and the mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 0.6 * len(rows) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    every = sorted({seed for row in rows for seed in seeds_of(found, row)})
    for seed in every:
        own = [row for row in rows if Cell(row, seed) in found]
        shares = [100 * found[Cell(row, seed)].top1()[-1] for row in own]
        axes.plot(shares, [rows.index(row) for row in own], "o-", alpha=0.5, markersize=5, label=f"seed {seed}")
    means = [np.mean([100 * found[Cell(row, seed)].top1()[-1] for seed in seeds_of(found, row)]) for row in rows]
    axes.plot(means, range(len(rows)), "D", color="black", markersize=7, label="mean")
    axes.set_yticks(range(len(rows)), [CONFIGURATIONS[row].says for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"top-1 of the last exit on {data}@test, %")
    axes.set_title(study.title, fontsize=10)
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def learned(out: Path, cells: Collection[Cell]) -> dict[Cell, tuple[list[float], list[float]]]:
    """Images seen, and top-1 of the last exit on them, in %, epoch by epoch: of the cells whose history is kept.

    Args:
        out: folder of the study.
    """
    from training.reporting import read_history

    lines = {}
    for cell in cells:
        epochs = read_history(out / HISTORIES / f"{cell.name}.csv")
        own = [name for name in (epochs[0] if epochs else {}) if name.endswith("top1") and not name.startswith("val_")]
        if own:
            lines[cell] = [float(epoch["images"]) for epoch in epochs], [100 * float(e[max(own)]) for e in epochs]
    return lines


def plot_learning(path: Path, rows: Sequence[str], lines: Mapping[Cell, tuple[list[float], list[float]]]) -> None:
    """How the last exit of every row learned, a panel for each seed, as PNG.

    A row that is behind may have begun later, learned more slowly or stopped lower: the end alone does not tell.

    Args:
        lines: as `learned` has them.
    """
    from matplotlib.figure import Figure

    every = sorted({cell.seed for cell in lines})
    figure = Figure(figsize=(1.2 + 3.4 * len(every), 4.4), layout="constrained")
    panels = figure.subplots(1, len(every), sharey=True, squeeze=False)[0]
    labelled = {}
    for axes, seed in zip(panels, every, strict=True):
        for number, row in enumerate(rows):
            if Cell(row, seed) in lines:
                colour, says = _COLOURS[number % len(_COLOURS)], CONFIGURATIONS[row].says
                images, shares = lines[Cell(row, seed)]
                (labelled[says],) = axes.plot(np.array(images) / 1000, shares, color=colour)
        axes.set(title=f"seed {seed}", xlabel="images seen, thousands")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("top-1 of the last exit while training, %")
    figure.legend([*labelled.values()], [*labelled], loc="outside lower center", fontsize=8)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def write_csv(path: Path, headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """A table; written whole or not at all."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([headings, *cells])
