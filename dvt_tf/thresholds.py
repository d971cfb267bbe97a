"""Choosing thresholds from held-out results.

Both rules here read only confidences and whether each exit was right, so they run in seconds on stored results.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from dvt_tf.exit_rule import NEVER, route

MOST_COMBINATIONS = 4096


class Operating(NamedTuple):
    """What thresholds do on a set of images.

    thresholds: (K - 1,) float32. accuracy: share of right answers. gmacs: mean cost, 10^9 multiply-accumulates.
    shares: (K,) share of images that leave at each exit.
    """

    thresholds: np.ndarray
    accuracy: float
    gmacs: float
    shares: np.ndarray


def operate(confidences: np.ndarray, correct: np.ndarray, gmacs: np.ndarray, thresholds: np.ndarray) -> Operating:
    """Applies thresholds to stored results.

    Args:
        confidences: (N, K). correct: (N, K) bool. gmacs: (K,) cumulative cost. thresholds: (K - 1,).
    """
    exits = route(confidences, thresholds) - 1
    shares = np.bincount(exits, minlength=confidences.shape[1]) / max(len(exits), 1)
    accuracy = float(correct[np.arange(len(exits)), exits].mean())
    return Operating(np.asarray(thresholds, np.float32), accuracy, float(shares @ gmacs), shares)


def published_thresholds(confidences: np.ndarray) -> list[np.ndarray]:
    """The published rule's 59 settings, cheapest first: exit shares proportional to q, q^2, ... for q = 1/20 ... 59/20.

    Each threshold is the confidence at which that share of all images has left, taken among those that have not left
    before (the reference code of Wang et al., 2021). Small q leaves early.

    Args:
        confidences: (N, K) at every exit, on held-out images.

    Returns:
        59 arrays (K - 1,) float32.
    """
    count, exits = confidences.shape
    settings = []
    for step in range(1, 60):
        shares = (step / 20.0) ** np.arange(1, exits + 1)
        shares /= shares.sum()
        here = np.ones(count, bool)
        values = np.full(exits - 1, NEVER, np.float32)
        for k in range(exits - 1):
            wanted = int(np.floor(count * shares[k]))
            left = np.sort(confidences[here, k])[::-1]
            if wanted and len(left):
                values[k] = left[min(wanted, len(left)) - 1]
                here &= confidences[:, k] < values[k]
        settings.append(values)
    return settings


def cheapest_within(confidences: np.ndarray, correct: np.ndarray, gmacs: np.ndarray, max_drop: float) -> Operating:
    """The cheapest thresholds, of a grid, that lose at most `max_drop` of accuracy against the last exit.

    The grid takes quantiles of each exit's confidences and never leaving there, in at most 4,096 combinations, so it is
    fine for two and three exits and coarse for many. Never leaving early is among them: there is always an answer.

    Args:
        confidences: (N, K). correct: (N, K) bool. gmacs: (K,) cumulative. max_drop: share, 0.003 being 0.3 points.
    """
    exits = confidences.shape[1]
    each = max(2, int(MOST_COMBINATIONS ** (1 / max(exits - 1, 1)))) - 1
    grids = []
    for k in range(exits - 1):
        quantiles = np.quantile(confidences[:, k], np.linspace(0.0, 1.0, min(each, 1000)))
        grids.append([*np.unique(quantiles.astype(np.float32)), np.float32(NEVER)])
    floor = correct[:, -1].mean() - max_drop
    best = operate(confidences, correct, gmacs, np.full(exits - 1, NEVER, np.float32))
    for combination in itertools.product(*grids):
        found = operate(confidences, correct, gmacs, np.asarray(combination, np.float32))
        if found.accuracy >= floor and (found.gmacs, -found.accuracy) < (best.gmacs, -best.accuracy):
            best = found
    return best
