"""The solvers behind one interface: the thresholds that each finds for a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dvt_tf.thresholds.descent import descent_thresholds
from dvt_tf.thresholds.evolutionary import evolutionary_thresholds
from dvt_tf.thresholds.exact import exact_thresholds
from dvt_tf.thresholds.operating import TOLERANCE, Operating, check_stored, operate
from dvt_tf.thresholds.published import published_thresholds

Solver = Callable[[np.ndarray, np.ndarray, np.ndarray, Sequence[float]], list[np.ndarray]]
METHODS = ("exact", "evolutionary", "published")
_EXACT_EXITS = 3  # up to so many the optimum is found


def choose(
    confidences: np.ndarray,
    correct: np.ndarray,
    gmacs: Sequence[float] | np.ndarray,
    budgets: float | Sequence[float],
    method: str = "exact",
) -> list[Operating]:
    """The best thresholds that a method finds for each budget: the highest accuracy at a mean cost within it.

    `exact` is the optimum on these images for two and three exits, and an approximation for more (`describe_method`).

    Args:
        confidences: (N, K). correct: (N, K) bool, or 0 and 1. gmacs: (K,) cumulative cost, 10^9 multiply-accumulates.
        budgets: mean cost of an image, each from gmacs[0] on (see `clamp_budget`).
        method: one of `METHODS`.

    Returns:
        What each budget's thresholds do on these very images, in the order of the budgets.

    Raises:
        ValueError: an unknown method, a budget below the first exit's cost or not finite, or results that make no
            sense: NaN, no image, shapes that do not fit.
    """
    correct, gmacs = np.asarray(correct, bool), np.asarray(gmacs, np.float64)
    confidences = np.asarray(confidences, np.float32)
    check_stored(confidences, correct, gmacs)
    confidences = np.minimum(confidences, np.float32(1.0))  # a rounding error above 1 would be cut off with "never"
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; it can be {', '.join(METHODS)}")
    wanted = [float(budget) for budget in np.atleast_1d(budgets)]
    for budget in wanted:
        if not budget >= gmacs[0] * (1 - 1e-9) or not np.isfinite(budget):
            raise ValueError(f"no thresholds meet a budget of {budget:g}: leaving at exit 1 costs {gmacs[0]:.4g}")
    exits = confidences.shape[1]
    if exits == 1:
        return [operate(confidences, correct, gmacs, np.zeros(0, np.float32))] * len(wanted)
    solve: Solver = {
        "exact": exact_thresholds if exits <= _EXACT_EXITS else descent_thresholds,
        "evolutionary": evolutionary_thresholds,
        "published": published_thresholds,
    }[method]
    order = np.argsort(wanted, kind="stable")
    found = solve(confidences, correct, gmacs, [wanted[index] for index in order])
    points: list[Operating] = [operate(confidences, correct, gmacs, values) for values in found]
    return [points[place] for place in np.argsort(order, kind="stable")]


def describe_method(method: str, exits: int) -> str:
    """In a person's words, what `choose` promises of a method."""
    if method == "exact":
        if exits <= _EXACT_EXITS:
            return "exact: no other thresholds are more accurate on these images within the budget"
        return f"descent, two thresholds at a time: an approximation, as the optimum is found for {_EXACT_EXITS} exits"
    if method == "evolutionary":
        return "evolutionary search, as in the paper: an approximation"
    return "the published rule, the best of its 59 settings"


def clamp_budget(budget: float, gmacs: Sequence[float] | np.ndarray) -> tuple[float, str]:
    """A budget brought between the first exit's cost and the full cascade's, and a line that says so ("" otherwise).

    Raises:
        ValueError: it is not a number above 0.
    """
    if not (np.isfinite(budget) and budget > 0):
        raise ValueError(f"the budget is {budget:g}; it must be a number of GFLOPs above 0")
    first, full = float(gmacs[0]), float(gmacs[-1])
    if budget < first:
        return first, f"a budget of {budget:.3g} is below what exit 1 costs; taken as {first:.3g}, leaving there always"
    if budget > full:
        return full, f"a budget of {budget:.3g} is above what the full cascade costs; taken as {full:.3g}"
    return float(budget), ""


def cheapest_within(
    confidences: np.ndarray, correct: np.ndarray, gmacs: Sequence[float] | np.ndarray, max_drop: float
) -> Operating:
    """The cheapest thresholds that lose at most `max_drop` of accuracy against the last exit: the least such budget.

    Args:
        confidences, correct, gmacs: as `choose` takes them. max_drop: a share, 0.003 being 0.3 points.
    """
    correct, gmacs = np.asarray(correct, bool), np.asarray(gmacs, np.float64)
    floor = correct[:, -1].mean() - max_drop - 1e-12
    [first, best] = choose(confidences, correct, gmacs, [gmacs[0], gmacs[-1]])
    if first.accuracy >= floor:
        return first
    below = gmacs[0]
    # Down to half of what the smallest step of one image costs, and then from one possible cost to the next.
    step = np.diff(gmacs).min(initial=gmacs[-1]) / len(confidences)
    while best.gmacs - below > step / 2:
        tried = np.linspace(below, best.gmacs, 18)[1:-1]
        points = choose(confidences, correct, gmacs, tried)
        meets = next((index for index, point in enumerate(points) if point.accuracy >= floor), None)
        if meets is None:
            below = tried[-1]
        else:
            below, best = tried[meets - 1] if meets else below, points[meets]
    while best.gmacs > gmacs[0]:
        [cheaper] = choose(confidences, correct, gmacs, max(gmacs[0], best.gmacs * (1 - 3 * TOLERANCE)))
        if cheaper.accuracy < floor:
            break
        best = cheaper
    return best
