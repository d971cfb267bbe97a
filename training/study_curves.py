"""A cascade at any mean cost: by thresholds of the calibration split, which test images it is right on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dvt_tf.evaluation import budgets_between
from dvt_tf.exit_rule import route
from dvt_tf.thresholds import choose
from training.cells import Cell, Outcome

_BUDGETS = 25  # of a curve


class Curve(NamedTuple):
    """Points of a cascade of K exits on N test images, from the cheapest on.

    budgets: (P,) mean cost that was asked for, of the calibration split. thresholds: (P, K - 1), the best ones there.
    gmacs: (P,) what they cost on the test split. right: (P, N) bool.
    """

    budgets: np.ndarray
    thresholds: np.ndarray
    gmacs: np.ndarray
    right: np.ndarray


Curves = Mapping[Cell, Curve]


def budgeted(outcome: Outcome) -> Curve:
    """Of budgets from the first exit's cost to the whole cascade's."""
    budgets = budgets_between(outcome.gmacs, _BUDGETS)
    chosen = choose(outcome.confidences["calibration"], outcome.correct["calibration"], outcome.gmacs, budgets.tolist())
    thresholds = np.stack([point.thresholds for point in chosen])
    exits = np.stack([route(outcome.confidences["test"], own) - 1 for own in thresholds])  # (P, N)
    gmacs = outcome.gmacs[exits].mean(1)
    right = np.take_along_axis(outcome.correct["test"][None], exits[..., None], 2)[..., 0]
    order = np.argsort(gmacs, kind="stable")
    return Curve(budgets[order], thresholds[order], gmacs[order], right[order])


def right_at(curve: Curve, gmacs: float) -> np.ndarray:
    """How often each image is right at a mean cost, (N,) float64 from 0 to 1.

    Of the two points that the cost lies between, each image is let through by one or the other by lot, as often as the
    mean cost asks for: what it costs hangs on no label. Beyond the dearest point nothing more is spent.
    """
    above = int(np.searchsorted(curve.gmacs, gmacs, side="right"))
    if above in (0, len(curve.gmacs)):
        return curve.right[max(above - 1, 0)].astype(np.float64)
    below, dearer = curve.gmacs[above - 1 : above + 1]
    share = (gmacs - below) / (dearer - below)
    return (1 - share) * curve.right[above - 1] + share * curve.right[above]


def points(curves: Curves, alone: Mapping[Cell, Outcome]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of a table with every point, and with single Transformers, which have one."""
    most = max((curve.thresholds.shape[1] for curve in curves.values()), default=0)
    headings = ["configuration", "seed", "budget", "gmacs", "top1", *(f"threshold_{k + 1}" for k in range(most))]
    lines = []
    for cell, curve in curves.items():
        for budget, thresholds, gmacs, right in zip(*curve, strict=True):
            numbers = [f"{value:.6g}" for value in (budget, gmacs, right.mean())]
            numbers += [f"{value:.9g}" for value in thresholds]  # float32, whole
            lines.append([cell.configuration, f"{cell.seed}", *numbers, *[""] * (most - len(thresholds))])
    for cell, outcome in alone.items():
        own = [f"{outcome.gmacs[0]:.6g}", f"{outcome.top1()[0]:.6g}"]
        lines.append([cell.configuration, f"{cell.seed}", "", *own, *[""] * most])
    return headings, lines


def mean_and_band(curves: Sequence[Curve], gmacs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of right answers at these costs, (C,): the mean over seeds, the least and the most."""
    shares = np.array([[right_at(curve, cost).mean() for cost in gmacs] for curve in curves])  # (S, C)
    return shares.mean(0), shares.min(0), shares.max(0)
