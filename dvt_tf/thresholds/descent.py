"""Thresholds for four exits and more: two at a time, the best pair on a grid of ranks. An approximation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from dvt_tf.exit_rule import NEVER, route
from dvt_tf.thresholds.operating import TOLERANCE, Operating, operate
from dvt_tf.thresholds.published import published_settings

_RANKS = 192  # cuts of each exit that are tried at a time
_ROUNDS = 8


def descent_thresholds(
    confidences: np.ndarray, correct: np.ndarray, gmacs: np.ndarray, budgets: Sequence[float]
) -> list[np.ndarray]:
    """Thresholds of high accuracy within each budget, never below the published rule's; the optimum is not promised.

    Starts from the best published setting or the answer for the budget before, and betters two thresholds at a time
    until no pair gets better: first on quantiles of all confidences, then on those near the thresholds found.

    Args, returns: as `exact_thresholds`, for any number of exits from 3 on; budgets in rising order.
    """
    exits = confidences.shape[1]
    known = [
        operate(confidences, correct, gmacs, values)
        for values in [np.zeros(exits - 1, np.float32), *published_settings(confidences)]
    ]
    found = []
    for budget in budgets:
        limit = budget * (1 + TOLERANCE)
        best = max((point for point in known if point.gmacs <= limit), key=_worth)
        for near in (False, True):
            for _ in range(_ROUNDS):
                before = best
                for pair in itertools.combinations(range(exits - 1), 2):
                    grids = [_grid(confidences[:, k], best.thresholds[k] if near else None) for k in pair]
                    better = _best_pair(confidences, correct, gmacs, best, pair, grids, limit)
                    best = max(best, better, key=_worth)
                if best is before:
                    break
        known.append(best)
        found.append(best.thresholds)
    return found


def _worth(point: Operating) -> tuple[float, float]:
    return point.accuracy, -point.gmacs


def _grid(confidences: np.ndarray, near: float | None) -> np.ndarray:
    """Thresholds to try, descending: never, then quantiles of all confidences or those `near` a threshold, then 0."""
    if near is None:
        shown = np.quantile(confidences, np.linspace(0.0, 1.0, _RANKS), method="nearest")
    else:
        ascending = np.unique(confidences)
        place = int(np.searchsorted(ascending, near))
        shown = np.append(ascending[max(0, place - _RANKS // 2) : place + _RANKS // 2], min(near, NEVER))
    inner = np.unique(shown[(shown > 0) & (shown < NEVER)].astype(np.float32))
    return np.concatenate([[np.float32(NEVER)], inner[::-1], [np.float32(0.0)]])


def _best_pair(
    confidences: np.ndarray,
    correct: np.ndarray,
    gmacs: np.ndarray,
    point: Operating,
    pair: tuple[int, int],
    grids: Sequence[np.ndarray],
    limit: float,
) -> Operating:
    """The best thresholds of two exits, each on its grid, the others as they are."""
    a, b = pair
    count = len(confidences)
    rows = np.arange(count)
    without = point.thresholds.copy()
    without[[a, b]] = NEVER
    elsewhere = route(confidences, without) - 1  # (N,) where each leaves if neither of the two lets it go
    reaches = elsewhere > a  # the others have left before a, and nothing changes for them
    to_both = elsewhere > b  # those between leave before b, where a does not let them go

    shape = (len(grids[0]), len(grids[1]))
    # The first cut of the grid that lets an image leave there.
    cut_a = _first_cut(confidences[:, a], grids[0])
    cut_b = _first_cut(confidences[:, b], grids[1])

    def table(values: np.ndarray) -> np.ndarray:
        """The sum of values (N, K), at the exit where each image leaves, for every pair of cuts."""
        at_a, at_b, later = values[rows, a], values[rows, b], values[rows, elsewhere]
        # An image leaves at a for cuts from its own on; else at b likewise; else later.
        leave_a = np.bincount(cut_a[reaches], weights=(at_a - later)[reaches], minlength=shape[0])
        cells = np.ravel_multi_index((cut_a[to_both], cut_b[to_both]), shape)
        moved = np.bincount(cells, weights=(at_b - later)[to_both], minlength=shape[0] * shape[1]).reshape(shape)
        by_b = np.cumsum(moved, 1)  # those whose cut at b is passed, by their cut at a
        still = by_b.sum(0) - np.cumsum(by_b, 0)  # of them, those that have not left at a
        return later.sum() + np.cumsum(leave_a)[:, None] + still

    accuracy = table(correct.astype(np.float64)) / count
    cost = table(np.broadcast_to(np.asarray(gmacs, np.float64), confidences.shape)) / count
    accuracy[cost > limit] = -1.0
    ties = np.flatnonzero(accuracy >= accuracy.max() - 1e-12)
    best = np.unravel_index(ties[np.argmin(cost.reshape(-1)[ties])], shape)
    thresholds = point.thresholds.copy()
    thresholds[a], thresholds[b] = grids[0][best[0]], grids[1][best[1]]
    better = operate(confidences, correct, gmacs, thresholds)
    return better if better.gmacs <= limit else point


def _first_cut(confidences: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(N,) index of the first, highest threshold of a descending grid that each confidence meets."""
    return np.searchsorted(-grid, -confidences, side="left")
